/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of numbers, in the reference's own order of IEEE operations. Compile it without -ffast-math.
 */
#include <edgefleet/preprocess.h>

/* To whole numbers, halves to even: up to 2^22 adding 1.5 * 2^23 leaves no bits behind the point. What is larger may come
 * out a little off, and is clamped all the same. */
static float rounded(float x)
{
    volatile float shifted = x + 12582912.0f; /* volatile: no compiler may join the two steps */
    return shifted - 12582912.0f;
}

int ef_columns(const ef_columns_facts *facts, const float *row, int8_t *input)
{
    for (uint32_t i = 0; i < facts->columns; i++) {
        float real = (float)(((double)row[i] - facts->mean[i]) / facts->deviation[i]);
        float steps = real / facts->scale;
        if (steps != steps) return 0;
        steps = rounded(steps) + (float)facts->zero_point;
        input[i] = (int8_t)(steps > 127.0f ? 127.0f : steps < -128.0f ? -128.0f : steps);
    }
    return 1;
}
