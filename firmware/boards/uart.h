/* SPDX-License-Identifier: Apache-2.0
 *
 * The board's first serial port: CMSDK's on Arm's boards, a 16550 on QEMU's RISC-V machine.
 */
#ifndef EDGEFLEET_UART_H
#define EDGEFLEET_UART_H

#include <stdint.h>

void uart_init(void);
int uart_read(void);      /* -1: nothing has come */
uint8_t uart_wait(void);  /* sleeps until a byte comes, so that an idle board costs the host nothing */
void uart_write(uint8_t byte);

#endif
