/* SPDX-License-Identifier: Apache-2.0
 *
 * The model blob, format 1: little-endian, position-independent, aligned to 16 bytes. All places are offsets from the
 * blob's first byte. The writer and a strict reader are converter/c/core/blob.py; docs/reference/model-blob.md.
 */
#ifndef EDGEFLEET_BLOB_H
#define EDGEFLEET_BLOB_H

#include <stdint.h>

enum { EF_BLOB_FORMAT = 1 };

typedef struct {
    uint8_t magic[4]; /* "EFB1" */
    uint16_t format, flags;
    uint32_t blob_bytes;
    uint32_t layers_at;
    uint16_t layer_count, once_count; /* the first once_count layers run when the arena is bound */
    uint32_t variants_at;
    uint16_t variant_count;
    uint8_t numerics, kernel_set;
    uint32_t ends_at;
    uint16_t input_count, output_count;
    uint32_t arena_bytes; /* tensors, scratch and state */
    uint32_t state_at, state_bytes;
    uint32_t scratch_bytes;
    uint32_t vectors_at, vector_count;
    uint32_t plan; /* 32-bit FNV-1a over all from variants_at to the last layer record, arena_bytes and once_count */
    uint8_t model_sha256[32], body_sha256[32];
} ef_blob_header;

typedef struct {
    uint16_t variant, operator_number;
    uint32_t layer_at; /* aligned to 8 */
    uint8_t inputs, outputs;
    uint16_t flags;
    uint32_t output_bytes;
} ef_layer_record;

typedef struct {
    uint32_t id;      /* 32-bit FNV-1a of the name */
    uint32_t name_at; /* ends with a zero byte */
} ef_variant_record;

typedef struct {
    uint32_t name_at;
    uint32_t arena_at, bytes;
    uint8_t dtype, rank; /* dtype: 0 int8, 1 int32, 2 float32 */
    uint16_t unused;
    float scale;
    int32_t zero_point;
    int32_t shape[6];
} ef_end_record;

#endif
