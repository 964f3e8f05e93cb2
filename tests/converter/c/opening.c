/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens blobs from stdin (each after its length, a little-endian word) in memory of exactly their size, and touches all
 * that an opened model gives away. Prints the status of each; a sanitizer ends it where a byte beyond is read.
 */
#include <stdio.h>
#include <stdlib.h>

#include <edgefleet/model.h>

#include MODEL_HEADER

enum { LAYERS_TRIED = 64, ARENA_LIMIT = 1 << 20 };

static void touch(const void *data, uint32_t bytes)
{
    volatile uint8_t seen = 0;
    for (uint32_t i = 0; i < bytes; i++) seen ^= ((const uint8_t *)data)[i];
}

/* Take an arena of exactly the bytes asked for, and read inputs, outputs and layers. No layer runs: what weights
 * and geometry say is for a signature to vouch for. */
static void look_around(ef_model *model)
{
    uint32_t bytes = ef_arena_bytes(model);
    if (bytes > ARENA_LIMIT) return;
    void *arena = calloc(1, bytes + 16), *tensor;
    model->arena = arena;
    for (uint32_t i = 0; i < LAYERS_TRIED; i++) {
        if ((tensor = ef_tensor(model, EF_INPUT, i, &bytes)) != 0) touch(tensor, bytes);
        if ((tensor = ef_tensor(model, EF_OUTPUT, i, &bytes)) != 0) touch(tensor, bytes);
        const void *output = ef_layer_output(model, i, &bytes);
        if (output) touch(output, bytes);
    }
    free(arena);
}

int main(void)
{
    uint32_t bytes;
    while (fread(&bytes, sizeof bytes, 1, stdin) == 1) {
        uint8_t *blob = aligned_alloc(16, bytes + (-bytes & 15u));
        if (fread(blob, 1, bytes, stdin) != bytes) return 1;
        ef_program program = MODEL;
        program.blob = blob;
        program.blob_bytes = bytes;
        ef_model model;
        ef_status status = ef_open(&model, &program);
        if (model.refusal) touch(model.refusal, 1);
        if (status == EF_OK) look_around(&model);
        printf("%d\n", (int)status);
        free(blob);
    }
    return 0;
}
