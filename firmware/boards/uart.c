/* SPDX-License-Identifier: Apache-2.0
 *
 * UART_CMSDK or UART_NS16550 is the address of the registers, UART_INTERRUPT the number of the receive interrupt.
 * The interrupt only wakes the processor: it stays masked, and is pending until the byte is read.
 */
#include "uart.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#if defined(UART_CMSDK)

/* Arm Cortex-M System Design Kit, 4.3, "APB UART"; NVIC: Armv7-M Architecture Reference Manual, B3.4 */
#define DATA REGISTER(UART_CMSDK + 0x0)
#define STATE REGISTER(UART_CMSDK + 0x4)
#define CONTROL REGISTER(UART_CMSDK + 0x8)
#define INTERRUPTS REGISTER(UART_CMSDK + 0xC)
#define BAUD_DIVIDER REGISTER(UART_CMSDK + 0x10)
enum { SENDING = 1, RECEIVED = 2 };
enum { SEND = 1, RECEIVE = 2, RECEIVE_INTERRUPT = 8, RECEIVE_PENDING = 2 };
#define NVIC_ENABLE REGISTER(0xE000E100 + UART_INTERRUPT / 32 * 4)
#define NVIC_CLEAR_PENDING REGISTER(0xE000E280 + UART_INTERRUPT / 32 * 4)
#define NVIC_BIT (1u << UART_INTERRUPT % 32)

void uart_init(void) {
    BAUD_DIVIDER = 16; /* the least; the emulator does not wait */
    CONTROL = SEND | RECEIVE | RECEIVE_INTERRUPT;
    (void)DATA; /* QEMU offers a byte that came too early again only when one has been read */
    __asm__ volatile("cpsid i");
    NVIC_ENABLE = NVIC_BIT;
}

int uart_read(void) {
    if ((STATE & RECEIVED) == 0) return -1;
    INTERRUPTS = RECEIVE_PENDING;
    return (int)(DATA & 0xFF);
}

void uart_write(uint8_t byte) {
    while (STATE & SENDING) {
    }
    DATA = byte;
}

static void sleep(void) {
    NVIC_CLEAR_PENDING = NVIC_BIT;
    if ((STATE & RECEIVED) == 0) __asm__ volatile("wfi");
}

#elif defined(UART_NS16550)

/* 16550; PLIC and WFI as in the RISC-V privileged architecture and QEMU's hw/riscv/virt.c: hart 0 in machine mode */
#define PORT(number) (*(volatile uint8_t *)(uintptr_t)(UART_NS16550 + (number)))
enum { DATA = 0, INTERRUPT_ENABLE = 1, LINE_CONTROL = 3, LINE_STATUS = 5 };
enum { RECEIVED = 1, CAN_SEND = 0x20, EIGHT_BITS = 3 };
#define PLIC 0x0C000000
#define PLIC_PRIORITY REGISTER(PLIC + 4 * UART_INTERRUPT)
#define PLIC_ENABLE REGISTER(PLIC + 0x2000)
#define PLIC_CLAIM REGISTER(PLIC + 0x200004)

void uart_init(void) {
    PORT(LINE_CONTROL) = EIGHT_BITS;
    PORT(INTERRUPT_ENABLE) = RECEIVED;
    PLIC_PRIORITY = 1;
    PLIC_ENABLE = 1u << UART_INTERRUPT;
    /* mie.MEIE: wake up; mstatus.MIE stays 0: do not jump */
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrs mie, %0\n.option pop" : : "r"(1u << 11));
}

int uart_read(void) {
    if ((PORT(LINE_STATUS) & RECEIVED) == 0) return -1;
    return PORT(DATA);
}

void uart_write(uint8_t byte) {
    while ((PORT(LINE_STATUS) & CAN_SEND) == 0) {
    }
    PORT(DATA) = byte;
}

static void sleep(void) {
    uint32_t source = PLIC_CLAIM;
    if (source != 0) PLIC_CLAIM = source;
    if ((PORT(LINE_STATUS) & RECEIVED) == 0) __asm__ volatile("wfi");
}

#endif

#if defined(UART_CMSDK) || defined(UART_NS16550)
uint8_t uart_wait(void) {
    int byte;
    while ((byte = uart_read()) < 0) sleep();
    return (uint8_t)byte;
}
#else
typedef int uart_none; /* no port is known for this board */
#endif
