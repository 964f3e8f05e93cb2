/* SPDX-License-Identifier: Apache-2.0
 *
 * Tries kernels: reads cases from the file cases.bin, one after the other, and writes their outputs to outputs.bin, so
 * that one boot serves thousands of cases. All numbers are little-endian words, all bytes are padded to fours:
 *
 *   arena bytes, calls, inputs, writable ranges, outputs
 *   for each call            number of the kernel, bytes of the layer, the layer
 *   for each input           place in the arena, bytes, the input
 *   for each writable range  place, bytes
 *   for each output          place, bytes
 *
 * For each case comes the first place that was written and may not be (or UNHARMED), then the outputs as they are.
 */
#include <edgefleet/kernels.h>

#include "board.h"

enum { LAYERS_BYTES = 640 * 1024, ARENA_BYTES = 256 * 1024, MOST = 16, OLD = 0x5A };
#define UNHARMED 0xffffffffu

extern const ef_kernel ef_case_kernels[];

typedef struct {
    uint32_t arena_bytes, calls, inputs, writable, outputs;
} case_header;

typedef struct {
    uint32_t at, bytes;
} range;

static uint8_t layers[LAYERS_BYTES] __attribute__((aligned(16)));
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(16)));
static uint8_t before[ARENA_BYTES] __attribute__((aligned(16)));
static const void *layer_of[MOST];
static uint32_t kernel_of[MOST];
static range writable[MOST], outputs[MOST];

/* 0 where all was there. */
static uint32_t read_calls(int file, uint32_t count)
{
    uint8_t *to = layers;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t head[2];
        if (board_read(file, head, sizeof head) || head[1] > (uint32_t)(layers + LAYERS_BYTES - to)) return 1;
        if (board_read(file, to, head[1])) return 1;
        kernel_of[i] = head[0];
        layer_of[i] = to;
        to += (head[1] + 15) & ~15u;
    }
    return 0;
}

static uint32_t read_inputs(int file, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        range input;
        if (board_read(file, &input, sizeof input) || input.at + input.bytes > ARENA_BYTES) return 1;
        if (board_read(file, arena + input.at, input.bytes)) return 1;
    }
    return 0;
}

static int is_writable(uint32_t at, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (at - writable[i].at < writable[i].bytes) return 1;
    return 0;
}

static uint32_t first_harm(const case_header *c)
{
    for (uint32_t at = 0; at < c->arena_bytes; at++)
        if (arena[at] != before[at] && !is_writable(at, c->writable)) return at;
    return UNHARMED;
}

static int try_case(int in, int out, const case_header *c)
{
    if (c->arena_bytes > ARENA_BYTES || c->calls > MOST || c->writable > MOST || c->outputs > MOST) return 1;
    for (uint32_t at = 0; at < c->arena_bytes; at++) arena[at] = OLD;
    if (read_calls(in, c->calls) || read_inputs(in, c->inputs)) return 1;
    if (board_read(in, writable, c->writable * sizeof(range))) return 1;
    if (board_read(in, outputs, c->outputs * sizeof(range))) return 1;
    for (uint32_t at = 0; at < c->arena_bytes; at++) before[at] = arena[at];
    for (uint32_t i = 0; i < c->calls; i++) ef_case_kernels[kernel_of[i]](layer_of[i], arena);
    uint32_t harm = first_harm(c);
    board_write(out, &harm, sizeof harm);
    for (uint32_t i = 0; i < c->outputs; i++) board_write(out, arena + outputs[i].at, outputs[i].bytes);
    return 0;
}

int main(void)
{
    int in = board_open("cases.bin", BOARD_READ), out = board_open("outputs.bin", BOARD_WRITE);
    case_header c;
    while (board_read(in, &c, sizeof c) == 0)
        if (try_case(in, out, &c)) return 1;
    return 0;
}
