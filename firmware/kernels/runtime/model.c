/* SPDX-License-Identifier: Apache-2.0
 * The five functions: a blob is checked once, bound to an arena, and run. */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

#include "../portable/memory.h"

enum { HEADER_BYTES = 128, LAYER_ALIGNMENT = 8, ARENA_ALIGNMENT = 16 };

static const ef_blob_header *header_of(const ef_model *model)
{
    return (const ef_blob_header *)(const void *)model->program->blob;
}

static ef_status refused(ef_model *model, ef_status status, const char *refusal)
{
    model->refusal = refusal;
    return status;
}

/* Whether count records lie within the blob, aligned to words. */
static int lies_inside(const ef_blob_header *header, uint32_t at, uint32_t count, uint32_t record_bytes)
{
    return at >= HEADER_BYTES && at % 4 == 0 && at <= header->blob_bytes &&
           count <= (header->blob_bytes - at) / record_bytes;
}

static const char *fault_of_header(const ef_program *program, const ef_blob_header *header)
{
    static const uint8_t magic[4] = {'E', 'F', 'B', '1'};
    for (uint32_t i = 0; i < sizeof magic; i++)
        if (header->magic[i] != magic[i]) return "not a model blob";
    if (header->format != EF_BLOB_FORMAT) return "a model blob of another format";
    if (header->blob_bytes < HEADER_BYTES || header->blob_bytes > program->blob_bytes) return "cut off";
    if (header->once_count > header->layer_count || header->state_at > header->arena_bytes ||
        header->state_bytes > header->arena_bytes - header->state_at ||
        !lies_inside(header, header->variants_at, header->variant_count, sizeof(ef_variant_record)) ||
        !lies_inside(header, header->layers_at, header->layer_count, sizeof(ef_layer_record)) ||
        !lies_inside(header, header->ends_at, (uint32_t)header->input_count + header->output_count,
                     sizeof(ef_end_record)))
        return "damaged";
    if (program->plan && program->plan != header->plan) return "made for other firmware: its layers are not these";
    return 0;
}

static ef_kernel kernel_of(const ef_program *program, uint32_t id)
{
    for (uint32_t i = 0; i < program->variant_count; i++)
        if (program->variants[i].id == id) return program->variants[i].kernel;
    return 0;
}

static const ef_variant_record *missing_variant(const ef_program *program, const ef_blob_header *header)
{
    const ef_variant_record *record = (const void *)(program->blob + header->variants_at);
    for (uint32_t i = 0; i < header->variant_count; i++, record++)
        if (!kernel_of(program, record->id)) return record;
    return 0;
}

static int layers_lie_inside(const uint8_t *blob, const ef_blob_header *header)
{
    const ef_layer_record *record = (const void *)(blob + header->layers_at);
    for (uint32_t i = 0; i < header->layer_count; i++, record++)
        if (record->variant >= header->variant_count || record->layer_at % LAYER_ALIGNMENT ||
            record->layer_at < HEADER_BYTES || record->layer_at >= header->blob_bytes)
            return 0;
    return 1;
}

static int ends_lie_inside(const uint8_t *blob, const ef_blob_header *header)
{
    const ef_end_record *record = (const void *)(blob + header->ends_at);
    for (uint32_t i = 0; i < (uint32_t)header->input_count + header->output_count; i++, record++)
        if (record->arena_at > header->arena_bytes || record->bytes > header->arena_bytes - record->arena_at) return 0;
    return 1;
}

/* The variant's name, if it ends within the blob. */
static const char *name_of(const uint8_t *blob, const ef_blob_header *header, const ef_variant_record *record)
{
    for (uint32_t i = record->name_at; i >= HEADER_BYTES && i < header->blob_bytes; i++)
        if (blob[i] == 0) return (const char *)blob + record->name_at;
    return "damaged";
}

ef_status ef_open(ef_model *model, const ef_program *program)
{
    model->program = program;
    model->arena = 0;
    model->refusal = 0;
    if (!program->blob || program->blob_bytes < HEADER_BYTES || (uintptr_t)program->blob % ARENA_ALIGNMENT)
        return refused(model, EF_BAD_BLOB, "cut off, or not aligned to 16 bytes");
    const ef_blob_header *header = header_of(model);
    const char *fault = fault_of_header(program, header);
    if (fault) return refused(model, EF_BAD_BLOB, fault);
    if (program->plan) return EF_OK; /* compiled for these layers: kernels and places are known */
    const ef_variant_record *missing = missing_variant(program, header);
    if (missing) return refused(model, EF_MISSING_KERNEL, name_of(program->blob, header, missing));
    if (!layers_lie_inside(program->blob, header) || !ends_lie_inside(program->blob, header))
        return refused(model, EF_BAD_BLOB, "damaged");
    return EF_OK;
}

uint32_t ef_arena_bytes(const ef_model *model)
{
    return header_of(model)->arena_bytes;
}

ef_status ef_bind(ef_model *model, void *arena, uint32_t arena_bytes)
{
    const ef_blob_header *header = header_of(model);
    if (!arena || (uintptr_t)arena % ARENA_ALIGNMENT || arena_bytes < header->arena_bytes)
        return refused(model, EF_SMALL_ARENA, "the arena is too small, or not aligned to 16 bytes");
    model->arena = arena;
    if (header->state_bytes) memset(model->arena + header->state_at, 0, header->state_bytes);
    return model->program->begin ? model->program->begin(model->program, model->arena, 0, 0) : EF_OK;
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
    if (!model->arena) return refused(model, EF_SMALL_ARENA, "no arena is bound");
    return model->program->run(model->program, model->arena, yield, user);
}
