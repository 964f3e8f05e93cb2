/* SPDX-License-Identifier: Apache-2.0
 *
 * The five functions. A program's blob is constant and was written with it, or looked through by its `check`.
 */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

#include "../portable/memory.h"

enum { ARENA_ALIGNMENT = 16 };

static const ef_blob_header *header_of(const ef_model *model)
{
    return (const ef_blob_header *)(const void *)model->program->blob;
}

ef_status ef_open(ef_model *model, const ef_program *program)
{
    model->program = program;
    model->arena = 0;
    model->find = 0;
    model->refusal = 0;
    return program->check ? program->check(model) : EF_OK;
}

uint32_t ef_arena_bytes(const ef_model *model)
{
    return header_of(model)->arena_bytes;
}

/* Layers from first up to end, in order. */
static ef_status run_layers(const ef_model *model, uint32_t first, uint32_t end, ef_yield yield, void *user)
{
    const ef_program *program = model->program;
    const uint8_t *blob = program->blob;
    const ef_layer_record *records = (const void *)(blob + header_of(model)->layers_at);
    for (uint32_t i = first; i < end; i++) {
        ef_kernel kernel = model->find ? model->find(program, i) : program->layers[i];
        kernel(blob + records[i].layer_at, model->arena);
        if (yield && yield(user, i)) return EF_STOPPED;
    }
    return EF_OK;
}

ef_status ef_bind(ef_model *model, void *arena, uint32_t arena_bytes)
{
    const ef_blob_header *header = header_of(model);
    if (!arena || (uintptr_t)arena % ARENA_ALIGNMENT || arena_bytes < header->arena_bytes) {
        model->refusal = "the arena is too small, or not aligned to 16 bytes";
        return EF_SMALL_ARENA;
    }
    model->arena = arena;
    memset(model->arena + header->state_at, 0, header->state_bytes);
    return run_layers(model, 0, header->once_count, 0, 0);
}

void *ef_tensor(const ef_model *model, ef_direction direction, uint32_t number, uint32_t *bytes)
{
    const ef_blob_header *header = header_of(model);
    if (!model->arena || number >= (direction == EF_INPUT ? header->input_count : header->output_count)) return 0;
    const ef_end_record *record = (const void *)(model->program->blob + header->ends_at);
    record += number + (direction == EF_INPUT ? 0u : header->input_count);
    if (bytes) *bytes = record->bytes;
    return model->arena + record->arena_at;
}

ef_status ef_invoke(ef_model *model, ef_yield yield, void *user)
{
    if (!model->arena) return EF_SMALL_ARENA;
    const ef_blob_header *header = header_of(model);
    return run_layers(model, header->once_count, header->layer_count, yield, user);
}
