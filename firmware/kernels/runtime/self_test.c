/* SPDX-License-Identifier: Apache-2.0
 * Is this the same model, run right? The parity vectors of a blob, on the chip that is to run it. */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

#include "../portable/memory.h"

enum { HASHED = 1, HASH_BYTES = 8, VECTOR_ALIGNMENT = 8 };

static ef_status refused(ef_model *model, ef_status status, const char *refusal)
{
    model->refusal = refusal;
    return status;
}

static uint64_t bytes_of(const ef_model *model, ef_direction direction)
{
    uint64_t sum = 0;
    uint32_t bytes;
    for (uint32_t i = 0; ef_tensor(model, direction, i, &bytes); i++) sum += bytes;
    return sum;
}

/* The bytes of one vector, or 0 where the blob has none, or not all of them. */
static uint32_t vector_bytes(const ef_model *model, uint32_t hashes_bytes)
{
    const ef_blob_header *header = (const void *)model->program->blob;
    uint64_t all = hashes_bytes + bytes_of(model, EF_INPUT) + bytes_of(model, EF_OUTPUT) + VECTOR_ALIGNMENT - 1;
    if (header->vectors_at < sizeof *header || header->vectors_at > header->blob_bytes) return 0;
    uint32_t room = header->blob_bytes - header->vectors_at;
    if (all > room) return 0;
    uint32_t size = (uint32_t)all & ~(uint32_t)(VECTOR_ALIGNMENT - 1);
    return size && header->vector_count && header->vector_count <= room / size ? size : 0;
}

static ef_status run_vector(ef_model *model, const uint8_t *vector, ef_yield yield, void *user)
{
    ef_status status = ef_bind(model, model->arena, ef_arena_bytes(model));
    if (status) return status;
    uint32_t bytes;
    void *input;
    for (uint32_t i = 0; (input = ef_tensor(model, EF_INPUT, i, &bytes)) != 0; i++, vector += bytes)
        memcpy(input, vector, bytes);
    status = ef_invoke(model, yield, user);
    if (status) return status;
    const uint8_t *output;
    for (uint32_t i = 0; (output = ef_tensor(model, EF_OUTPUT, i, &bytes)) != 0; i++, vector += bytes)
        for (uint32_t place = 0; place < bytes; place++)
            if (output[place] != vector[place])
                return refused(model, EF_WRONG_ANSWER, "an output differs from its parity vector");
    return EF_OK;
}

ef_status ef_self_test(ef_model *model, ef_yield yield, void *user)
{
    if (!model->arena) return refused(model, EF_SMALL_ARENA, "no arena yet");
    const uint8_t *blob = model->program->blob;
    const ef_blob_header *header = (const void *)blob;
    uint32_t layers = (uint32_t)header->layer_count - header->once_count;
    uint32_t hashes_bytes = header->flags & HASHED ? HASH_BYTES * layers : 0;
    uint32_t size = vector_bytes(model, hashes_bytes);
    if (!size && !header->vector_count) return refused(model, EF_BAD_BLOB, "no parity vectors");
    if (!size) return refused(model, EF_BAD_BLOB, "parity vectors are cut off");
    for (uint32_t i = 0; i < header->vector_count; i++) {
        ef_status status = run_vector(model, blob + header->vectors_at + i * size + hashes_bytes, yield, user);
        if (status) return status;
    }
    return ef_bind(model, model->arena, ef_arena_bytes(model));
}
