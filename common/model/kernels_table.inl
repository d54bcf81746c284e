// Closes a kernels_*.cc: the table of its functions.
namespace crescendo::kernels {
namespace {

template <typename T>
constexpr TypedTable<T> MakeTypedTable() {
  return {&RmsNorm<T>,        &RmsNormBackward<T>, &Rope<T>,          &SwiGlu<T>,
          &SwiGluBackward<T>, &PagedAttention<T>,  &PackedForward<T>, &PackedBackward<T>};
}

}  // namespace

const Table& CRESCENDO_KERNEL_TABLE();
const Table& CRESCENDO_KERNEL_TABLE() {
  static const Table table = {MakeTypedTable<float>(),
                              MakeTypedTable<Bf16>(),
                              &RowMax,
                              &RowSoftmaxSums,
                              &RowExp,
                              &LogProbGradient,
                              &ExpTimesLine,
                              &Bf16ToF32,
                              &F32ToBf16,
                              &AddBf16,
                              CRESCENDO_KERNEL_NAME};
  return table;
}

}  // namespace crescendo::kernels
