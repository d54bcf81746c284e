// The kernels for what every CPU has. Compiled with that instruction set's flags: nothing here may
// be shared with other units but Table functions (no inline functions of outside headers).
#define CRESCENDO_KERNEL_WIDTH 4
#define CRESCENDO_KERNEL_NAME "generic"
#define CRESCENDO_KERNEL_TABLE GenericTable
#include "common/model/kernels_rows.inl"
// After the rows, whose vectors it uses.
#include "common/model/kernels_attention.inl"
#include "common/model/kernels_table.inl"
