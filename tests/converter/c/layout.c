/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include <edgefleet/blob.h>
#include <edgefleet/kernels.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(type))

int main(void)
{
    SIZE(ef_blob_header);
    SIZE(ef_layer_record);
    SIZE(ef_variant_record);
    SIZE(ef_end_record);
    return 0;
}
