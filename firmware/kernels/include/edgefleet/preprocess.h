/* SPDX-License-Identifier: Apache-2.0
 *
 * From what a sensor gives to a model's int8 input: pictures, sounds, rows of numbers. Whole numbers only (rows: IEEE
 * floats, which a compiler without a floating-point unit does in software), no library, nothing allocated.
 *
 * Facts are constant and generated from a bundle's manifest (NAME_preprocess.c), as are the functions to call. Scratch
 * is the caller's, aligned to 8 bytes, and may be any memory that the model does not need meanwhile.
 */
#ifndef EDGEFLEET_PREPROCESS_H
#define EDGEFLEET_PREPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Pictures: the same bytes as edgefleet/runtimes/preprocessing.py makes, from 8-bit RGB or grey rows. */

/* One axis of resizing. Sizes are divided by their greatest common divisor where weights are made of them; a pixel's
 * weight is reach minus the distance of centres, both in halves of 1/out pixels, at least 0 and at most cap. */
typedef struct {
    uint16_t in, out;           /* pixels */
    uint16_t in_part, out_part; /* pixels / greatest common divisor */
    uint32_t reach, cap;
} ef_axis;

enum { EF_PICTURE_AS_IT_IS = 0, EF_PICTURE_NEAREST = 1, EF_PICTURE_WEIGHTED = 2 };

typedef struct {
    ef_axis down, across;
    uint8_t resize;          /* one of the three above */
    uint8_t frame_channels;  /* 1 grey, 3 RGB */
    uint8_t out_channels;    /* 1 or 3 */
    uint8_t reversed;        /* BGR */
    uint8_t wide;            /* sums need 64 bits */
    uint16_t rows_kept;      /* rows of the frame that one row of the result is made of, at most */
    const int8_t *levels;    /* the input's value for each of 256 pixel levels */
} ef_picture_facts;

/* A picture on its way: rows of the frame come in, rows of the result go out as soon as they can be made. */
typedef struct {
    const ef_picture_facts *facts;
    uint32_t *scratch;
    int8_t *input;
    uint32_t frame_row, row;
} ef_picture;

void ef_picture_begin(ef_picture *picture, const ef_picture_facts *facts, void *scratch, int8_t *input);
/* Take the frame's next row (across.in pixels); as many rows as down.in make the whole input. */
void ef_picture_row(ef_picture *picture, const uint8_t *pixels);

/* Sounds: log-mel bands or their cosine transform, one frame at a time, from int16 samples. */
typedef struct {
    uint16_t frame_samples, stride_samples, frames;
    uint16_t fft_samples;     /* a power of two, 8 to 4096 */
    uint16_t mel_bins;
    uint16_t coefficients;    /* of the cosine transform; 0: the bands themselves */
    const int32_t *window;    /* first half and middle of a Hann window, Q31 */
    const int32_t *sine;      /* first quarter of a turn, fft_samples / 4 + 1, Q31 */
    const uint16_t *edges;    /* the spectrum's line at which each of mel_bins + 1 slopes begins, and the end */
    const uint32_t *rising;   /* for each line from edges[0]: its share in the band that rises there, Q32 */
    const int32_t *cosines;   /* coefficients x mel_bins, Q30 */
    uint64_t log_offset;      /* in the unit of magnitudes: full scale is 2^47 */
    int64_t add;              /* quantization: (log2 * multiply + add) >> shift, log2 in Q20 */
    int32_t multiply;
    uint8_t shift;
} ef_sound_facts;

/* One frame: the first `samples` of frame_samples are there, silence follows. Writes mel_bins or coefficients values. */
void ef_sound_frame(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, void *scratch, int8_t *features);
/* A clip: all frames, one after the other; silence follows the samples. */
void ef_sound_clip(const ef_sound_facts *facts, const int16_t *clip, uint32_t samples, void *scratch, int8_t *input);

/* A waveform as it is: the input's value is known to be at least low + i + 1 from the sample thresholds[i] on
 * (to that sample, where it falls), and is exact; guess and shift only say where to look first. */
typedef struct {
    uint32_t samples;
    int16_t low, high;
    uint8_t falls, shift;
    int32_t multiply;
    int64_t add;
    const int16_t *thresholds; /* high - low */
} ef_waveform_facts;

void ef_waveform(const ef_waveform_facts *facts, const int16_t *clip, uint32_t samples, int8_t *input);

/* Rows of numbers: (x - mean) / deviation in double, rounded to float, quantized in float: as IEEE 754 says. */
typedef struct {
    uint16_t columns;
    int16_t zero_point;
    float scale;
    const double *mean, *deviation;
} ef_columns_facts;

/* 0 where a value is not a number, which no input can hold; 1 else. */
int ef_columns(const ef_columns_facts *facts, const float *row, int8_t *input);

#ifdef __cplusplus
}
#endif
#endif
