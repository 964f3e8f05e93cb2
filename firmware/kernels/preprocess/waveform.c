/* SPDX-License-Identifier: Apache-2.0
 *
 * A waveform, sample by sample. The value is a monotone function of the sample: a fixed-point guess finds its place, and
 * the samples at which the exact value changes have the last word.
 */
#include <edgefleet/preprocess.h>

static int32_t guess(const ef_waveform_facts *facts, int32_t sample)
{
    int64_t value = ((int64_t)sample * facts->multiply + facts->add) >> facts->shift;
    return value < facts->low ? facts->low : value > facts->high ? facts->high : (int32_t)value;
}

/* Whether the exact value of this sample is over `value`. */
static inline int is_over(const ef_waveform_facts *facts, int32_t sample, int32_t value)
{
    int32_t threshold = facts->thresholds[value - facts->low];
    return facts->falls ? sample <= threshold : sample >= threshold;
}

static int8_t value_of(const ef_waveform_facts *facts, int32_t sample)
{
    int32_t value = guess(facts, sample);
    while (value < facts->high && is_over(facts, sample, value)) value++;
    while (value > facts->low && !is_over(facts, sample, value - 1)) value--;
    return (int8_t)value;
}

void ef_waveform(const ef_waveform_facts *facts, const int16_t *clip, uint32_t samples, int8_t *input)
{
    uint32_t given = samples < facts->samples ? samples : facts->samples;
    int8_t silence = value_of(facts, 0);
    for (uint32_t i = 0; i < given; i++) input[i] = value_of(facts, clip[i]);
    for (uint32_t i = given; i < facts->samples; i++) input[i] = silence;
}
