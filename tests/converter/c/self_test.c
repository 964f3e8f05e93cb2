/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs the parity vectors of blobs from stdin (each after its length, a little-endian word), in memory of exactly their
 * size, so that sanitizers see each byte beyond. Prints each status, the layers that ran, and the refusal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <edgefleet/model.h>

#include MODEL_HEADER

static uint32_t stop_at = UINT32_MAX;

static int counted(void *user, uint32_t layer)
{
    (void)layer;
    return ++*(uint32_t *)user >= stop_at;
}

static void prove(ef_model *model)
{
    uint32_t bytes = ef_arena_bytes(model), layers = 0;
    void *arena = aligned_alloc(16, bytes);
    memset(arena, 0x5a, bytes);
    ef_status status = ef_self_test(model, counted, &layers);
    if (status != EF_SMALL_ARENA || layers) printf("ran without an arena\n");
    status = ef_bind(model, arena, bytes);
    if (!status) status = ef_self_test(model, counted, &layers);
    printf("%d %u %s\n", (int)status, (unsigned)layers, status && status != EF_STOPPED ? model->refusal : "-");
    free(arena);
}

int main(int count, char **arguments)
{
    uint32_t bytes;
    if (count > 1) stop_at = (uint32_t)atoi(arguments[1]);
    while (fread(&bytes, sizeof bytes, 1, stdin) == 1) {
        uint8_t *blob = aligned_alloc(16, bytes); /* blobs are multiples of 16 */
        if (fread(blob, 1, bytes, stdin) != bytes) return 1;
        ef_program program = MODEL;
        program.blob = blob;
        program.blob_bytes = bytes;
        ef_model model;
        ef_status status = ef_open(&model, &program);
        if (status) printf("%d 0 %s\n", (int)status, model.refusal);
        else prove(&model);
        free(blob);
    }
    return 0;
}
