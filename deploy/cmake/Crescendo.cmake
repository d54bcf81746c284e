# The project's build rules: crescendo_library, crescendo_executable, crescendo_test, and the imported libraries.
#
#   crescendo_library(NAME [TORCH] [SRCS ...] [HDRS ...] [DEPS ...] [PRIVATE_DEPS ...])
#   crescendo_executable(NAME [TORCH] SRCS ... [DEPS ...])
#   crescendo_test(NAME [TORCH] SRCS ... [DEPS ...] [SUITE unit|parity|integration|fault|sim|bench] [TIMEOUT s] [ARGS ...])
#
# TORCH marks a target whose units include ATen: it gets the wheel's headers and the shared precompiled header. A target
# without it cannot include LibTorch. DEPS are crescendo libraries by their short name (base, text, ...) or any CMake
# target. tests/tidy holds who may include whom (the table of the README of common/).

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
if(CRESCENDO_SERVICES)
  # Here and not where they are used: an imported target is seen in its own folder and below only.
  find_package(Protobuf REQUIRED)
  find_package(gRPC REQUIRED)
  find_package(prometheus-cpp REQUIRED)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # The sloppiness is what ccache's manual asks for with precompiled headers.
  set(ccache_launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${CCACHE_PROGRAM})
  set(CMAKE_C_COMPILER_LAUNCHER ${ccache_launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache_launcher})
endif()
find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  # -B finds mold's ld for g++ 12 and clang 14 alike.
  add_link_options(-B/usr/libexec/mold)
endif()

add_library(crescendo_flags INTERFACE)
set(own_flags -Wall -Wextra -Werror -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(APPEND own_flags -Wthread-safety)
else()
  # g++ 12's own false alarms on std::optional and std::string at -O2 (GCC bugs 105562, 105651).
  list(APPEND own_flags -Wno-maybe-uninitialized -Wno-restrict)
endif()
target_compile_options(crescendo_flags INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:${own_flags}>)
target_include_directories(crescendo_flags INTERFACE ${CMAKE_SOURCE_DIR})
if(CRESCENDO_SANITIZE)
  add_compile_options(-fsanitize=${CRESCENDO_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CRESCENDO_SANITIZE})
endif()

# CUDA ----------------------------------------------------------------------------------------------------------------
set(CRESCENDO_HAVE_CUDA OFF)
if(NOT CRESCENDO_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
    set(CMAKE_CUDA_STANDARD 17)
    # The runtime is the one of LibTorch's wheel (below): one in a process.
    set(CMAKE_CUDA_RUNTIME_LIBRARY None)
    if(CCACHE_PROGRAM)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -DNDEBUG")
    set(CRESCENDO_HAVE_CUDA ON)
  elseif(CRESCENDO_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CRESCENDO_CUDA=ON, but no nvcc was found on PATH")
  endif()
endif()

# LibTorch: imported by hand, since the wheel's CMake package insists on CUDA. -idirafter keeps the protobuf headers that
# the wheel carries behind the system's.
if(CRESCENDO_TORCH AND NOT EXISTS ${CRESCENDO_TORCH_DIR}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch not found in ${CRESCENDO_TORCH_DIR}: run deploy/setup, or give -DCRESCENDO_TORCH_DIR")
endif()
add_library(crescendo_torch INTERFACE)
target_compile_options(crescendo_torch INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-idirafter${CRESCENDO_TORCH_DIR}/include>
  $<$<COMPILE_LANGUAGE:CXX>:-idirafter${CRESCENDO_TORCH_DIR}/include/torch/csrc/api/include>)
get_filename_component(site_packages ${CRESCENDO_TORCH_DIR} DIRECTORY)
file(GLOB cuda_runtime_dirs ${site_packages}/nvidia/*/lib)
target_link_libraries(crescendo_torch INTERFACE ${CRESCENDO_TORCH_DIR}/lib/libtorch_cpu.so
                                                ${CRESCENDO_TORCH_DIR}/lib/libc10.so)
target_link_options(crescendo_torch INTERFACE -Wl,--allow-shlib-undefined -Wl,--disable-new-dtags)
foreach(dir ${CRESCENDO_TORCH_DIR}/lib ${cuda_runtime_dirs})
  target_link_options(crescendo_torch INTERFACE -Wl,-rpath,${dir})
endforeach()

# The CUDA runtime for units that call it: the toolkit's headers, the library of LibTorch's wheel.
if(CRESCENDO_HAVE_CUDA)
  file(GLOB cuda_runtime ${site_packages}/nvidia/*/lib/libcudart.so.13)
  if(NOT cuda_runtime)
    set(missing "CUDA code needs libcudart.so.13 of the PyPI wheel nvidia-cuda-runtime in ${site_packages}/nvidia (deploy/setup)")
    if(CRESCENDO_CUDA STREQUAL "ON")
      message(FATAL_ERROR "${missing}")
    endif()
    message(STATUS "${missing}: built without CUDA")
    set(CRESCENDO_HAVE_CUDA OFF)
  endif()
endif()
if(CRESCENDO_HAVE_CUDA)
  get_filename_component(cuda_runtime_dir ${cuda_runtime} DIRECTORY)
  add_library(crescendo_cudart INTERFACE)
  target_include_directories(crescendo_cudart SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(crescendo_cudart INTERFACE ${cuda_runtime})
  target_link_options(crescendo_cudart INTERFACE -Wl,--disable-new-dtags -Wl,-rpath,${cuda_runtime_dir})
  # cuBLAS is loaded by name when a device is used (common/model/cuda_blas.h): from the toolkit, or a wheel beside LibTorch.
  foreach(dir ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
    if(EXISTS ${dir}/libcublas.so.13)
      target_link_options(crescendo_cudart INTERFACE -Wl,-rpath,${dir})
    endif()
  endforeach()

  # FlashInfer's headers; its CCCL comes before the toolkit's, which lacks what they use.
  set(CRESCENDO_HAVE_FLASHINFER OFF)
  add_library(crescendo_flashinfer INTERFACE)
  if(EXISTS ${CRESCENDO_FLASHINFER_DIR}/include/flashinfer/attention/prefill.cuh)
    set(CRESCENDO_HAVE_FLASHINFER ON)
    target_include_directories(crescendo_flashinfer BEFORE INTERFACE
      ${CRESCENDO_FLASHINFER_DIR}/cccl/libcudacxx/include ${CRESCENDO_FLASHINFER_DIR}/cccl/cub
      ${CRESCENDO_FLASHINFER_DIR}/cccl/thrust ${CRESCENDO_FLASHINFER_DIR}/include)
  elseif(CRESCENDO_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CRESCENDO_CUDA=ON, but FlashInfer's headers are not in ${CRESCENDO_FLASHINFER_DIR}: run "
                        "deploy/setup --cuda, or give -DCRESCENDO_FLASHINFER_DIR (the wheel's flashinfer/data)")
  else()
    message(STATUS "FlashInfer's headers are not in ${CRESCENDO_FLASHINFER_DIR} (deploy/setup --cuda): "
                   "CUDA attention is built with the simple kernel only")
  endif()
endif()

# One precompiled header for all that includes ATen: a unit costs seconds instead of 20.
function(crescendo_make_torch_pch)
  file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cc "// Only there so that the precompiled header has an owner.\n")
  add_library(crescendo_torch_pch STATIC ${CMAKE_BINARY_DIR}/torch_pch.cc)
  target_link_libraries(crescendo_torch_pch PRIVATE crescendo_flags crescendo_torch)
  target_precompile_headers(crescendo_torch_pch PRIVATE
    <ATen/ATen.h> <torch/csrc/autograd/autograd.h> <torch/csrc/autograd/custom_function.h>
    <torch/csrc/autograd/variable.h> <absl/status/status.h> <absl/status/statusor.h> <absl/strings/str_cat.h>
    <algorithm> <memory> <string> <unordered_map> <vector>)
endfunction()
if(CRESCENDO_TORCH)
  crescendo_make_torch_pch()
endif()

# Rules ----------------------------------------------------------------------------------------------------------------
function(crescendo_resolve_deps OUT)
  set(resolved)
  foreach(dep ${ARGN})
    if(dep MATCHES "^(absl|gRPC|protobuf|prometheus-cpp|tomlplusplus|Threads|nlohmann_json)::" OR dep MATCHES "^[-/]"
       OR dep MATCHES "\\.so$")
      list(APPEND resolved ${dep})
    elseif(dep MATCHES "^(pkg|lib):(.*)$")
      list(APPEND resolved ${CMAKE_MATCH_2})
    else()
      list(APPEND resolved crescendo_${dep})
    endif()
  endforeach()
  set(${OUT} ${resolved} PARENT_SCOPE)
endfunction()

function(crescendo_use_torch TARGET)
  target_link_libraries(${TARGET} PRIVATE crescendo_torch)
  # Executables too, or g++ would not take the header (made with -fPIC) for their -fPIE.
  target_compile_options(${TARGET} PRIVATE -fPIC)
  target_precompile_headers(${TARGET} REUSE_FROM crescendo_torch_pch)
endfunction()

function(crescendo_library NAME)
  cmake_parse_arguments(ARG "TORCH" "" "SRCS;HDRS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "crescendo_library(${NAME}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  if(ARG_TORCH AND NOT CRESCENDO_TORCH)
    return()
  endif()
  crescendo_resolve_deps(deps ${ARG_DEPS})
  crescendo_resolve_deps(private_deps ${ARG_PRIVATE_DEPS})
  if(ARG_SRCS)
    add_library(crescendo_${NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_link_libraries(crescendo_${NAME} PRIVATE crescendo_flags ${private_deps} PUBLIC ${deps})
    if(ARG_TORCH)
      crescendo_use_torch(crescendo_${NAME})
      target_link_libraries(crescendo_${NAME} PUBLIC crescendo_torch)
    endif()
  else()
    add_library(crescendo_${NAME} INTERFACE)
    target_link_libraries(crescendo_${NAME} INTERFACE ${deps})
  endif()
endfunction()

function(crescendo_executable NAME)
  cmake_parse_arguments(ARG "TORCH" "" "SRCS;DEPS" ${ARGN})
  crescendo_resolve_deps(deps ${ARG_DEPS})
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE crescendo_flags ${deps})
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(ARG_TORCH)
    crescendo_use_torch(${NAME})
  endif()
endfunction()

function(crescendo_test NAME)
  cmake_parse_arguments(ARG "TORCH" "SUITE;TIMEOUT" "SRCS;DEPS;ARGS" ${ARGN})
  if(NOT CRESCENDO_TESTS)
    return()
  endif()
  if(NOT ARG_SUITE)
    set(ARG_SUITE unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  crescendo_resolve_deps(deps ${ARG_DEPS})
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE crescendo_flags crescendo_catch_main ${deps})
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(ARG_TORCH)
    crescendo_use_torch(${NAME})
  endif()
  add_test(NAME ${NAME} COMMAND ${NAME} ${ARG_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${NAME} PROPERTIES LABELS ${ARG_SUITE} TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77
    # Passive: threads that spin for each other stand still where tests run side by side.
    ENVIRONMENT "CRESCENDO_BUILD_DIR=${CMAKE_BINARY_DIR};CRESCENDO_SOURCE_DIR=${CMAKE_SOURCE_DIR};OMP_WAIT_POLICY=PASSIVE")
  if(ARG_SUITE MATCHES "^(integration|fault|bench)$")
    # They start services or measure time: each has the machine for itself.
    set_tests_properties(${NAME} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()
