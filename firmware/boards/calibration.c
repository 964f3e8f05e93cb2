/* SPDX-License-Identifier: Apache-2.0
 *
 * A benchmark against the board's own cycle counter, for edgefleet/boards/calibration.py, which chooses the cases and reads
 * the answers. Each loop runs once, twice as long, and the difference is printed: calls and readings cancel out. The
 * smaller of three readings is taken, as the first fills caches and prefetch buffers.
 */
#include <stdint.h>

#include "calibration_cases.h"

/* The board's own: a UART at 115200 8N1 (or what --baud says). */
void uart_init(void);
void uart_write(uint8_t byte);

static uint32_t memory[16];

#if defined(__riscv)
#define LOOP(block)                                                                              \
    register uint32_t *place __asm__("a3") = memory;                                             \
    register uint32_t turns __asm__("a4") = count;                                               \
    __asm__ volatile(".balign 16\n1:\n" block "addi %0, %0, -1\nbnez %0, 1b\n"                   \
                     : "+r"(turns), "+r"(place)                                                  \
                     :                                                                           \
                     : "t0", "t1", "t2", "memory")
#else
#define LOOP(block)                                                                              \
    register uint32_t *place __asm__("r3") = memory;                                             \
    register uint32_t turns __asm__("r4") = count;                                               \
    __asm__ volatile(".syntax unified\n.balign 16\n1:\n" block "subs %0, %0, #1\nbne 1b\n"       \
                     : "+l"(turns), "+l"(place)                                                  \
                     :                                                                           \
                     : "r0", "r1", "r2", "cc", "memory")
#endif

#define DEFINE(number, name, block)                                           \
    static __attribute__((noinline)) void case_##number(uint32_t count)       \
    {                                                                         \
        LOOP(block);                                                          \
    }
EF_CASES(DEFINE)

typedef struct {
    const char *name;
    void (*run)(uint32_t count);
} calibration_case;

#define LIST(number, name, block) {name, case_##number},
static const calibration_case cases[EF_CASE_COUNT] = {EF_CASES(LIST)};

#if !defined(__riscv)
static inline volatile uint32_t *at(uint32_t address)
{
    return (volatile uint32_t *)(uintptr_t)address;
}
#endif

#if defined(EF_COUNTER_DWT)
static void counter_init(void)
{
    *at(0xE000EDFC) |= 1u << 24; /* DEMCR.TRCENA */
    *at(0xE0001FB0) = 0xC5ACCE55; /* the lock that Cortex-M7 has */
    *at(0xE0001004) = 0;
    *at(0xE0001000) |= 1; /* DWT_CTRL.CYCCNTENA */
}

static inline uint32_t counter_read(void)
{
    return *at(0xE0001004); /* DWT_CYCCNT */
}

static inline uint32_t between(uint32_t begin, uint32_t end)
{
    return end - begin;
}
#elif defined(EF_COUNTER_SYSTICK)
static void counter_init(void)
{
    *at(0xE000E014) = 0xFFFFFF; /* SYST_RVR */
    *at(0xE000E018) = 0;
    *at(0xE000E010) = 5; /* SYST_CSR: the processor's clock, no interrupt */
}

static inline uint32_t counter_read(void)
{
    return *at(0xE000E018); /* SYST_CVR: 24 bits, downwards */
}

static inline uint32_t between(uint32_t begin, uint32_t end)
{
    return (begin - end) & 0xFFFFFF;
}
#else
#if defined(EF_COUNTER_MPCCR) /* Espressif: which event, count, value */
static void counter_init(void)
{
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrwi 0x7e0, 1\ncsrwi 0x7e1, 1\n.option pop");
}
#define READ_COUNTER "csrr %0, 0x7e2"
#else
static void counter_init(void)
{
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrwi mcountinhibit, 0\n.option pop");
}
#define READ_COUNTER "csrr %0, mcycle"
#endif

static inline uint32_t counter_read(void)
{
    uint32_t cycles;
    __asm__ volatile(".option push\n.option arch, +zicsr\n" READ_COUNTER "\n.option pop" : "=r"(cycles));
    return cycles;
}

static inline uint32_t between(uint32_t begin, uint32_t end)
{
    return end - begin;
}
#endif

static uint32_t cycles_of(const calibration_case *one, uint32_t count)
{
    uint32_t least = UINT32_MAX;
    for (int reading = 0; reading < 3; reading++) {
        uint32_t begin = counter_read();
        one->run(count);
        uint32_t cycles = between(begin, counter_read());
        if (cycles < least) least = cycles;
    }
    return least;
}

static void write_text(const char *text)
{
    while (*text) uart_write((uint8_t)*text++);
}

static void write_number(uint32_t number)
{
    char digits[11];
    char *first = digits + 10;
    *first = 0;
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    write_text(first);
}

static void write_line(const char *before, uint32_t number)
{
    write_text(before);
    write_number(number);
    write_text("}\n");
}

static void round_of_cases(void)
{
    write_line("{\"calibration\":1,\"cases\":", EF_CASE_COUNT);
    for (uint32_t i = 0; i < EF_CASE_COUNT; i++) {
        uint32_t once = cycles_of(&cases[i], EF_TURNS), twice = cycles_of(&cases[i], 2 * EF_TURNS);
        write_text("{\"case\":\"");
        write_text(cases[i].name);
        write_line("\",\"cycles\":", twice - once);
    }
    write_line("{\"done\":", EF_CASE_COUNT);
}

int main(void)
{
    uart_init();
    counter_init();
    for (;;) {
        round_of_cases();
        cases[0].run(1u << 20); /* a pause, so that a reader finds the beginning of a round */
    }
}
