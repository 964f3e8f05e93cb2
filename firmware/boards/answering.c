/* SPDX-License-Identifier: Apache-2.0
 *
 * A board that stays on and answers: a model's input comes over the UART, its output goes back.
 *
 * Every frame is: 0x7E, a kind, the payload's length (u32, little-endian), the payload, and its FNV-1a hash (u32).
 * The board says 'H' (u32 input bytes, u32 output bytes) when it is ready, and after each request 'A' with the output
 * or 'E' with one byte that says why not. A request is 'Q'. What is no frame is skipped.
 */
#include EF_MODEL_HEADER

#include "board.h"
#include "uart.h"

enum { BEGIN = 0x7E };
enum { BAD_LENGTH = 1, BAD_HASH = 2, NOT_RUN = 3 };

typedef struct {
    uint8_t *bytes;
    uint32_t size;
} buffer;

static uint8_t arena[EF_MODEL_ARENA_BYTES] __attribute__((aligned(16)));

static uint32_t hash_of(const uint8_t *bytes, uint32_t n) {
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static uint32_t receive_word(void) {
    uint32_t word = 0;
    for (uint32_t shift = 0; shift < 32; shift += 8) word |= (uint32_t)uart_wait() << shift;
    return word;
}

static void send_word(uint32_t word) {
    for (uint32_t shift = 0; shift < 32; shift += 8) uart_write((uint8_t)(word >> shift));
}

static void send(uint8_t kind, const uint8_t *payload, uint32_t n) {
    uart_write(BEGIN);
    uart_write(kind);
    send_word(n);
    for (uint32_t i = 0; i < n; i++) uart_write(payload[i]);
    send_word(hash_of(payload, n));
}

static buffer tensor(const ef_model *model, ef_direction direction) {
    buffer found;
    found.bytes = ef_tensor(model, direction, 0, &found.size);
    return found;
}

static void say_hello(const ef_model *model) {
    const uint32_t sizes[2] = {tensor(model, EF_INPUT).size, tensor(model, EF_OUTPUT).size};
    send('H', (const uint8_t *)sizes, sizeof sizes); /* both ends are little-endian */
}

/* Wait for a request and put its payload where the model reads it; 0, or why it cannot be used. */
static uint8_t receive_request(const ef_model *model) {
    const buffer input = tensor(model, EF_INPUT);
    while (uart_wait() != BEGIN || uart_wait() != 'Q') {
    }
    if (receive_word() != input.size) return BAD_LENGTH;
    for (uint32_t i = 0; i < input.size; i++) input.bytes[i] = uart_wait();
    return receive_word() == hash_of(input.bytes, input.size) ? 0 : BAD_HASH;
}

static void answer(ef_model *model, uint8_t why) {
    if (!why && ef_invoke(model, 0, 0) != EF_OK) why = NOT_RUN;
    const buffer output = tensor(model, EF_OUTPUT);
    if (why) {
        send('E', &why, 1);
    } else {
        send('A', output.bytes, output.size);
    }
}

int main(void) {
    ef_model model;
    if (ef_open(&model, &EF_MODEL) != EF_OK || ef_bind(&model, arena, sizeof arena) != EF_OK) return 1;
    uart_init();
    say_hello(&model);
    for (;;) answer(&model, receive_request(&model));
}
