/* SPDX-License-Identifier: Apache-2.0
 *
 * Log-mel bands and their cosine transform (MFCC) of int16 samples.
 *
 * The spectrum is computed in 64 bits and never scaled down: a full-scale tone leaves exact zeros elsewhere, and the
 * reference, which works in double, takes the logarithm of how near to zero they are. Magnitudes are of 2^47 to full scale:
 * 2^15 of the samples, 2^31 of the window, and a factor of 2 that the split of a real transform brings.
 */
#include <edgefleet/preprocess.h>

typedef struct {
    int64_t re, im;
} ef_complex;

enum { LOG_FRACTION_BITS = 20, UNIT_BITS = 47, COSINE_BITS = 30 };

static inline uint32_t zeros_above(uint64_t x) /* x != 0 */
{
#if defined(__GNUC__)
    return (uint32_t)__builtin_clzll(x);
#else
    uint32_t zeros = 0;
    while (!(x >> 63)) x <<= 1, zeros++;
    return zeros;
#endif
}

/* A word as it is. GCC would remember that it is half of 64 bits, and multiply the other half too. */
static inline int32_t word(int32_t x)
{
#if defined(__GNUC__) && (defined(__arm__) || defined(__riscv))
    __asm__("" : "+r"(x));
#endif
    return x;
}

/* (a * c + b * s) / 2^31 of 64-bit a, b and Q31 c, s: upper and lower halves apart, each in one 64-bit sum. */
static inline int64_t turned(int64_t a, int64_t b, int32_t c, int32_t s)
{
    int32_t a_upper = word((int32_t)(a >> 32)), b_upper = word((int32_t)(b >> 32));
    int32_t a_lower = word((int32_t)((uint32_t)a >> 1)), b_lower = word((int32_t)((uint32_t)b >> 1));
    int64_t upper = (int64_t)a_upper * c + (int64_t)b_upper * s;
    int64_t lower = (int64_t)a_lower * c + (int64_t)b_lower * s;
    return 2 * upper + (lower >> 30);
}

/* x * (c - i s) */
static inline ef_complex rotated(const ef_complex *x, int32_t c, int32_t s)
{
    ef_complex r;
    r.re = turned(x->re, x->im, c, s);
    r.im = turned(x->im, x->re, c, -s);
    return r;
}

/* (a, b) becomes (a + t, a - t). */
static inline void plus_minus(ef_complex *a, ef_complex *b, int64_t t_re, int64_t t_im)
{
    b->re = a->re - t_re;
    b->im = a->im - t_im;
    a->re += t_re;
    a->im += t_im;
}

/* One stage of a radix-2 transform. The twiddles of j and of j + half / 2 are a quarter turn apart: (c - i s) and
 * -i (c - i s), so a quarter of a sine serves all. */
static void stage(ef_complex *x, uint32_t points, uint32_t half, const int32_t *sine, uint32_t quarter)
{
    uint32_t step = quarter / half * 2; /* of the sine's table; half >= 2 */
    for (ef_complex *group = x; group < x + points; group += 2 * half) {
        ef_complex *a = group, *late = group + half / 2;
        plus_minus(a, a + half, a[half].re, a[half].im);
        plus_minus(late, late + half, late[half].im, -late[half].re);
        const int32_t *sines = sine, *cosines = sine + quarter;
        while (++a < group + half / 2) {
            late++;
            sines += step;
            cosines -= step;
            ef_complex t = rotated(a + half, word(*cosines), word(*sines));
            plus_minus(a, a + half, t.re, t.im);
            t = rotated(late + half, word(*cosines), word(*sines));
            plus_minus(late, late + half, t.im, -t.re);
        }
    }
}

static void transform(ef_complex *x, uint32_t points, const int32_t *sine, uint32_t quarter)
{
    for (uint32_t i = 0; i < points; i += 2) plus_minus(x + i, x + i + 1, x[i + 1].re, x[i + 1].im);
    for (uint32_t half = 2; half < points; half *= 2) stage(x, points, half, sine, quarter);
}

static inline int64_t windowed(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, uint32_t n)
{
    if (n >= samples) return 0;
    uint32_t mirrored = 2 * n <= facts->frame_samples ? n : facts->frame_samples - n;
    return (int64_t)clip[n] * facts->window[mirrored];
}

/* Even samples are real parts, odd ones imaginary parts, in the bit-reversed order that the transform begins with. */
static void load(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, ef_complex *x, uint32_t points)
{
    uint32_t reversed = 0;
    for (uint32_t n = 0; n < points; n++) {
        x[reversed].re = windowed(facts, clip, samples, 2 * n);
        x[reversed].im = windowed(facts, clip, samples, 2 * n + 1);
        uint32_t bit = points / 2;
        while (reversed & bit) reversed ^= bit, bit /= 2;
        reversed |= bit;
    }
}

static inline uint64_t size_of(int64_t x)
{
    return x < 0 ? (uint64_t)-x : (uint64_t)x;
}

/* sqrt(p) of 2^62 <= p < 2^64, wrong by less than 2^-22 of it: a line for the first guess, one step of Newton's on the
 * upper half, one correction by what is left. */
static inline uint64_t square_root(uint64_t p)
{
    uint32_t upper = (uint32_t)(p >> 32);
    uint32_t line = ((upper >> 15) * 21845u >> 16) + 22938u;
    uint32_t root = (line + upper / line) >> 1;
    int64_t rest = (int64_t)(p - ((uint64_t)root * root << 32));
    int32_t correction = (int32_t)(rest >> 24) / (int32_t)root;
    return (uint64_t)(((int64_t)root << 16) + (int64_t)correction * 128);
}

static uint64_t magnitude(int64_t re, int64_t im)
{
    uint64_t a = size_of(re), b = size_of(im), both = a | b;
    if (!both) return 0;
    int32_t left = (int32_t)zeros_above(both) - 33; /* to 31 bits */
    uint32_t x = (uint32_t)(left < 0 ? a >> -left : a << left);
    uint32_t y = (uint32_t)(left < 0 ? b >> -left : b << left);
    uint64_t square = (uint64_t)x * x + (uint64_t)y * y;
    if (!(square >> 62)) {
        square <<= 2;
        left++;
    }
    uint64_t root = square_root(square);
    return left < 0 ? root << -left : root >> left;
}

static inline void measure(ef_complex *line, int64_t re, int64_t im)
{
    line->re = (int64_t)magnitude(re, im);
}

/* From the transform of pairs to the magnitude of each line of the real spectrum, in .re of the line's place. Line 0 has
 * no part in any band; lines at and over `end` have none either. */
static void split(ef_complex *x, uint32_t points, uint32_t end, const int32_t *sine)
{
    uint32_t middle = points / 2;
    for (uint32_t k = 1; k < middle; k++) {
        ef_complex *low = x + k, *high = x + points - k;
        ef_complex even = {low->re + high->re, low->im - high->im};
        ef_complex odd = {low->re - high->re, low->im + high->im};
        if (k >= end) return;
        ef_complex t = rotated(&odd, word(sine[middle - k]), word(sine[k]));
        measure(low, even.re + t.im, even.im - t.re);
        if (points - k < end) measure(high, even.re - t.im, even.im + t.re);
    }
    measure(x + middle, 2 * x[middle].re, 2 * x[middle].im);
}

/* log2 of x in units of full scale, Q20, bit by bit: squaring doubles a logarithm. */
static int32_t log2_of(uint64_t x)
{
    uint32_t zeros = zeros_above(x);
    uint32_t mantissa = (uint32_t)(x << zeros >> 32);
    int32_t whole = 63 - (int32_t)zeros - UNIT_BITS;
    uint32_t fraction = 0;
    for (uint32_t bit = 0; bit < LOG_FRACTION_BITS; bit++) {
        uint64_t square = (uint64_t)mantissa * mantissa;
        uint32_t over = (uint32_t)(square >> 63);
        mantissa = (uint32_t)(over ? square >> 32 : square >> 31);
        fraction = 2 * fraction + over;
    }
    return whole * (1 << LOG_FRACTION_BITS) + (int32_t)fraction;
}

static inline uint64_t share(uint64_t magnitude_, uint32_t rising)
{
    return (magnitude_ >> 32) * rising + ((uint64_t)(uint32_t)magnitude_ * rising >> 32);
}

/* Between two edges a line falls in one band and rises in the next, and both shares together are the whole line. */
static void bands(const ef_sound_facts *facts, const ef_complex *x, int32_t *logarithms)
{
    const uint32_t *rising = facts->rising;
    uint64_t band = 0;
    for (uint32_t slope = 0; slope <= facts->mel_bins; slope++) {
        uint64_t whole = 0, rise = 0;
        for (uint32_t line = facts->edges[slope]; line < facts->edges[slope + 1]; line++) {
            uint64_t size = (uint64_t)x[line].re;
            whole += size;
            rise += share(size, *rising++);
        }
        if (slope) *logarithms++ = log2_of(band + (whole - rise) + facts->log_offset);
        band = rise;
    }
}

static inline int8_t quantized(const ef_sound_facts *facts, int32_t log2)
{
    int64_t value = ((int64_t)log2 * facts->multiply + facts->add) >> facts->shift;
    return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}

static int32_t cosine_sum(const int32_t *cosines, const int32_t *logarithms, uint32_t count)
{
    int64_t sum = 0;
    for (uint32_t n = 0; n < count; n++) sum += (int64_t)cosines[n] * logarithms[n];
    return (int32_t)(sum >> COSINE_BITS);
}

void ef_sound_frame(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, void *scratch, int8_t *features)
{
    ef_complex *x = scratch;
    uint32_t points = facts->fft_samples / 2u;
    int32_t *logarithms = (int32_t *)(x + points);
    load(facts, clip, samples < facts->frame_samples ? samples : facts->frame_samples, x, points);
    transform(x, points, facts->sine, points / 2);
    split(x, points, facts->edges[facts->mel_bins + 1], facts->sine);
    bands(facts, x, logarithms);
    if (!facts->coefficients)
        for (uint32_t n = 0; n < facts->mel_bins; n++) features[n] = quantized(facts, logarithms[n]);
    for (uint32_t k = 0; k < facts->coefficients; k++) {
        const int32_t *cosines = facts->cosines + k * facts->mel_bins;
        features[k] = quantized(facts, cosine_sum(cosines, logarithms, facts->mel_bins));
    }
}

void ef_sound_clip(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, void *scratch, int8_t *input)
{
    uint32_t features = facts->coefficients ? facts->coefficients : facts->mel_bins;
    for (uint32_t frame = 0; frame < facts->frames; frame++, input += features) {
        uint32_t start = frame * facts->stride_samples;
        ef_sound_frame(facts, clip + (start < samples ? start : samples), start < samples ? samples - start : 0, scratch,
                       input);
    }
}
