/* SPDX-License-Identifier: Apache-2.0
 *
 * A model on a microcontroller, in five functions. No heap, no global state: everything lies in ef_model and in the
 * arena, and both are the caller's.
 *
 *     static uint8_t arena[KWS_ARENA_BYTES] __attribute__((aligned(16)));
 *     ef_model model;
 *     if (ef_open(&model, &kws) || ef_bind(&model, arena, sizeof arena)) return 1;
 *     memcpy(ef_tensor(&model, EF_INPUT, 0), samples, 490);
 *     ef_invoke(&model, NULL, NULL);
 *     const int8_t *scores = ef_tensor(&model, EF_OUTPUT, 0);
 */
#ifndef EDGEFLEET_MODEL_H
#define EDGEFLEET_MODEL_H

#include <edgefleet/kernels.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    EF_OK = 0,
    EF_BAD_BLOB,         /* not a model blob, of another format, or cut off */
    EF_MISSING_KERNEL,   /* ef_refusal names the kernel variant that this firmware does not have */
    EF_SMALL_ARENA,      /* fewer bytes than ef_arena_bytes says, or not aligned to 16 */
    EF_STOPPED           /* yield said so; the next ef_invoke begins anew */
} ef_status;

typedef enum { EF_INPUT = 0, EF_OUTPUT = 1 } ef_direction;

/* Called after each layer; anything but 0 ends the inference with EF_STOPPED. For watchdogs and other tasks. */
typedef int (*ef_yield)(void *user, uint32_t layer);

/* A kernel variant that the firmware links: id is the 32-bit FNV-1a of its name. */
typedef struct {
    uint32_t id;
    ef_kernel kernel;
} ef_variant;

/* A model as a program: its blob, and what runs it. Generated code defines one for each model. */
typedef struct ef_program {
    const uint8_t *blob;
    uint32_t blob_bytes;
    ef_status (*run)(const struct ef_program *program, uint8_t *arena, ef_yield yield, void *user);
    const ef_variant *variants;
    uint32_t variant_count;
} ef_program;

typedef struct {
    const ef_program *program;
    uint8_t *arena;
    const char *refusal;
} ef_model;

/* Check the blob: magic, format, sizes, and that each kernel variant it names is there. */
ef_status ef_open(ef_model *model, const ef_program *program);
/* Bytes that ef_bind needs: tensors, scratch and state. */
uint32_t ef_arena_bytes(const ef_model *model);
/* Take the arena, and put state variables to their first values. */
ef_status ef_bind(ef_model *model, void *arena, uint32_t arena_bytes);
/* Where an input or output lies in the arena; NULL where there is none of that number. */
void *ef_tensor(const ef_model *model, ef_direction direction, uint32_t number);
/* Run one inference. */
ef_status ef_invoke(ef_model *model, ef_yield yield, void *user);

#ifdef __cplusplus
}
#endif
#endif
