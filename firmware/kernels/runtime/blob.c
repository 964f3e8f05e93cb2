/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a blob is one that this firmware can run. Nothing beyond blob_bytes is read. Weights are taken as they are:
 * who wrote them is for a signature to say.
 */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

enum { HEADER_BYTES = 128, LAYER_ALIGNMENT = 8, BLOB_ALIGNMENT = 16 };
static const uint32_t FNV_OFFSET = 0x811c9dc5u, FNV_PRIME = 0x01000193u;

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

static int tables_lie_inside(const ef_blob_header *header)
{
    uint32_t ends = (uint32_t)header->input_count + header->output_count;
    return lies_inside(header, header->variants_at, header->variant_count, sizeof(ef_variant_record)) &&
           lies_inside(header, header->layers_at, header->layer_count, sizeof(ef_layer_record)) &&
           lies_inside(header, header->ends_at, ends, sizeof(ef_end_record)) &&
           header->variants_at <= header->layers_at && header->once_count <= header->layer_count &&
           header->state_at <= header->arena_bytes && header->state_bytes <= header->arena_bytes - header->state_at;
}

static uint32_t hashed(uint32_t state, const uint8_t *data, uint32_t bytes)
{
    for (; bytes; bytes--) state = (state ^ *data++) * FNV_PRIME;
    return state;
}

static uint32_t plan_of(const uint8_t *blob, const ef_blob_header *header)
{
    uint32_t layers_end = header->layers_at + header->layer_count * (uint32_t)sizeof(ef_layer_record);
    uint32_t state = hashed(FNV_OFFSET, blob + header->variants_at, layers_end - header->variants_at);
    state = hashed(state, (const uint8_t *)&header->arena_bytes, sizeof header->arena_bytes);
    return hashed(state, (const uint8_t *)&header->once_count, sizeof header->once_count);
}

static int ends_lie_inside(const uint8_t *blob, const ef_blob_header *header)
{
    const ef_end_record *record = (const void *)(blob + header->ends_at);
    for (uint32_t i = 0; i < (uint32_t)header->input_count + header->output_count; i++, record++)
        if (record->arena_at > header->arena_bytes || record->bytes > header->arena_bytes - record->arena_at) return 0;
    return 1;
}

/* Whether a layer's arena offsets are in the blob, and point into the arena. */
static int places_are_sound(const uint8_t *blob, const ef_blob_header *header, const ef_layer_record *record)
{
    uint32_t count = (uint32_t)record->inputs + record->outputs + 1u;
    if (record->layer_at % LAYER_ALIGNMENT || !lies_inside(header, record->layer_at, count, sizeof(uint32_t))) return 0;
    const uint32_t *places = (const void *)(blob + record->layer_at);
    for (uint32_t i = 0; i < count; i++)
        if (places[i] % BLOB_ALIGNMENT || places[i] > header->arena_bytes) return 0;
    return !record->outputs || record->output_bytes <= header->arena_bytes - places[record->inputs];
}

static int layers_are_sound(const uint8_t *blob, const ef_blob_header *header)
{
    const ef_layer_record *record = (const void *)(blob + header->layers_at);
    for (uint32_t i = 0; i < header->layer_count; i++, record++)
        if (record->variant >= header->variant_count || !places_are_sound(blob, header, record)) return 0;
    return 1;
}

static const char *fault_of(const ef_program *program)
{
    static const uint8_t magic[4] = {'E', 'F', 'B', '1'};
    const uint8_t *blob = program->blob;
    const ef_blob_header *header = (const void *)blob;
    if (!blob || (uintptr_t)blob % BLOB_ALIGNMENT) return "no blob, or not aligned to 16 bytes";
    if (program->blob_bytes < HEADER_BYTES) return "cut off";
    for (uint32_t i = 0; i < sizeof magic; i++)
        if (header->magic[i] != magic[i]) return "not a model blob";
    if (header->format != EF_BLOB_FORMAT) return "a model blob of another format";
    if (header->blob_bytes < HEADER_BYTES || header->blob_bytes > program->blob_bytes) return "cut off";
    if (!tables_lie_inside(header) || header->plan != plan_of(blob, header) || !ends_lie_inside(blob, header) ||
        !layers_are_sound(blob, header))
        return "damaged";
    return 0;
}

/* The variant's name, if it ends within the blob. */
static const char *name_of(const uint8_t *blob, const ef_blob_header *header, const ef_variant_record *record)
{
    for (uint32_t i = record->name_at; i >= HEADER_BYTES && i < header->blob_bytes; i++)
        if (blob[i] == 0) return (const char *)blob + record->name_at;
    return "a kernel without a name";
}

/* The kernel that a program has for a variant's id, or NULL. */
static ef_kernel kernel_for(const ef_program *program, uint32_t id)
{
    for (uint32_t i = 0; i < program->variant_count; i++)
        if (program->variants[i].id == id) return program->variants[i].kernel;
    return 0;
}

/* The kernel of a layer that was not known when the firmware was built. */
static ef_kernel kernel_of(const ef_program *program, uint32_t layer)
{
    const ef_blob_header *header = (const void *)program->blob;
    const ef_layer_record *records = (const void *)(program->blob + header->layers_at);
    const ef_variant_record *variants = (const void *)(program->blob + header->variants_at);
    return kernel_for(program, variants[records[layer].variant].id);
}

ef_status ef_check_blob(ef_model *model)
{
    const ef_program *program = model->program;
    const char *fault = fault_of(program);
    if (fault) return refused(model, EF_BAD_BLOB, fault);
    const ef_blob_header *header = (const void *)program->blob;
    if (program->layers && header->plan == program->plan && header->layer_count == program->layer_count) return EF_OK;
    const ef_variant_record *record = (const void *)(program->blob + header->variants_at);
    for (uint32_t i = 0; i < header->variant_count; i++, record++)
        if (!kernel_for(program, record->id))
            return refused(model, EF_MISSING_KERNEL, name_of(program->blob, header, record));
    model->find = kernel_of;
    return EF_OK;
}
