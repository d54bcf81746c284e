# Writes a C++ file that holds files as bytes. Run as a script:
#   cmake -DOUT=page_files.cc -DHEADER=services/... -DFUNCTION=PageFiles -DFILES="a;b" -P EmbedFiles.cmake
set(arrays "")
set(table "")
set(index 0)
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  # Lines of a bounded length.
  string(REGEX REPLACE "(0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],)" "\\1\n" bytes
         "${bytes}")
  string(APPEND arrays "constexpr unsigned char kFile${index}[] = {\n${bytes}0};\n")
  string(APPEND table
    "    {\"${name}\", {reinterpret_cast<const char*>(kFile${index}), ${size}}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUT}
"// Written by deploy/cmake/EmbedFiles.cmake.
#include \"${HEADER}\"

namespace crescendo {
namespace {
${arrays}
const EmbeddedFile kFiles[] = {
${table}};
}  // namespace

absl::Span<const EmbeddedFile> ${FUNCTION}() { return kFiles; }
}  // namespace crescendo
")
