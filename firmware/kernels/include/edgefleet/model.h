/* SPDX-License-Identifier: Apache-2.0
 *
 * A model on a microcontroller, in five functions. No heap, no global state: everything lies in ef_model and in the
 * arena, and both are the caller's.
 *
 *     static uint8_t arena[KWS_ARENA_BYTES] __attribute__((aligned(16)));
 *     ef_model model;
 *     if (ef_open(&model, &kws) || ef_bind(&model, arena, sizeof arena)) return 1;
 *     memcpy(ef_tensor(&model, EF_INPUT, 0, NULL), samples, KWS_INPUT_0_BYTES);
 *     ef_invoke(&model, NULL, NULL);
 *     const int8_t *scores = ef_tensor(&model, EF_OUTPUT, 0, NULL);
 *
 * Inputs are overwritten by an inference: write them anew before each. Outputs stay until the next.
 */
#ifndef EDGEFLEET_MODEL_H
#define EDGEFLEET_MODEL_H

#include <edgefleet/kernels.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    EF_OK = 0,
    EF_BAD_BLOB,       /* not a model blob, of another format, cut off or damaged: model.refusal says which */
    EF_MISSING_KERNEL, /* model.refusal names the kernel variant that this firmware does not have */
    EF_SMALL_ARENA,    /* fewer bytes than ef_arena_bytes says, or not aligned to 16 */
    EF_STOPPED,        /* yield said so; the next ef_invoke begins anew */
    EF_WRONG_ANSWER    /* ef_self_test: an output differs from its parity vector */
} ef_status;

typedef enum { EF_INPUT = 0, EF_OUTPUT = 1 } ef_direction;

/* Called after each layer; anything but 0 ends the inference with EF_STOPPED. For watchdogs and other tasks. */
typedef int (*ef_yield)(void *user, uint32_t layer);

/* A kernel variant that the firmware links: id is the 32-bit FNV-1a of its name. */
typedef struct {
    uint32_t id;
    ef_kernel kernel;
} ef_variant;

struct ef_program;
struct ef_model;
typedef ef_status (*ef_check)(struct ef_model *model);
typedef ef_kernel (*ef_find)(const struct ef_program *program, uint32_t layer);

/* A model as a program: its blob, and the kernel of each layer. Generated code defines one for each model.
 * `check` is what looks at a blob that may change, NULL where it is part of the program; `plan` is the fingerprint of
 * the layers that `layers` was written for. A blob with other layers runs if all its kernel variants are in `variants`,
 * and its kernels are found there layer by layer. A program for any blob has plan 0 and no layers. */
typedef struct ef_program {
    const uint8_t *blob;
    uint32_t blob_bytes;
    uint32_t plan;
    const ef_kernel *layers;
    uint32_t layer_count;
    ef_check check;
    const ef_variant *variants;
    uint32_t variant_count;
} ef_program;

typedef struct ef_model {
    const ef_program *program;
    uint8_t *arena;
    ef_find find; /* NULL: the program's own layers */
    const char *refusal;
} ef_model;

/* Take a program, and check its blob where that may change: magic, format, that every table and layer lies inside, and
 * that each kernel variant it names is there. Where the blob has been exchanged, open and bind anew. */
ef_status ef_open(ef_model *model, const ef_program *program);
/* Take the arena (ef_arena_bytes, aligned to 16), and put state variables to their first values. */
ef_status ef_bind(ef_model *model, void *arena, uint32_t arena_bytes);
/* Bytes that ef_bind needs: tensors, scratch and state. */
uint32_t ef_arena_bytes(const ef_model *model);
/* Where an input or output lies in the arena, and how many bytes it has; NULL where there is none of that number. */
void *ef_tensor(const ef_model *model, ef_direction direction, uint32_t number, uint32_t *bytes);
/* Run one inference. */
ef_status ef_invoke(ef_model *model, ef_yield yield, void *user);

/* `check` of a program whose blob may change. */
ef_status ef_check_blob(ef_model *model);

/* Run the blob's parity vectors, each from the first values of state variables, and compare all bytes: before a blob
 * that came to a slot is trusted. EF_BAD_BLOB where it has none, or not all of them. Leaves the model as ef_bind does. */
ef_status ef_self_test(ef_model *model, ef_yield yield, void *user);

/* Where a layer's first output lies in the arena, after that layer has run: for comparing models layer by layer. */
const void *ef_layer_output(const ef_model *model, uint32_t layer, uint32_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
