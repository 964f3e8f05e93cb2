/* SPDX-License-Identifier: Apache-2.0
 *
 * What compilers call by themselves, for loops that look like it too: images link no C library, so that any compiler
 * makes them. Whole words where both ends are aligned, bytes otherwise.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *one, const void *other, size_t n);
size_t strlen(const char *text);

/* Keeps the compiler from seeing a copy in these loops and calling the very function that it is in. */
#define OPAQUE() __asm__ volatile("")

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    unsigned char *out = to;
    const unsigned char *in = from;
    if ((((uintptr_t)out | (uintptr_t)in) & 3) == 0) {
        uint32_t *out_words = (uint32_t *)to;
        const uint32_t *in_words = (const uint32_t *)from;
        for (; n >= 16; n -= 16, out_words += 4, in_words += 4) {
            uint32_t a = in_words[0], b = in_words[1], c = in_words[2], d = in_words[3];
            out_words[0] = a, out_words[1] = b, out_words[2] = c, out_words[3] = d;
            OPAQUE();
        }
        for (; n >= 4; n -= 4) {
            *out_words++ = *in_words++;
            OPAQUE();
        }
        out = (unsigned char *)out_words;
        in = (const unsigned char *)in_words;
    }
    for (; n > 0; n--) {
        *out++ = *in++;
        OPAQUE();
    }
    return to;
}

void *memmove(void *to, const void *from, size_t n) {
    unsigned char *out = to;
    const unsigned char *in = from;
    if ((uintptr_t)out - (uintptr_t)in >= n) return memcpy(to, from, n); /* to lies before, or behind the end */
    while (n-- > 0) {
        out[n] = in[n];
        OPAQUE();
    }
    return to;
}

void *memset(void *to, int value, size_t n) {
    unsigned char *out = to;
    for (; n > 0 && ((uintptr_t)out & 3) != 0; n--) {
        *out++ = (unsigned char)value;
        OPAQUE();
    }
    uint32_t *words = (uint32_t *)(void *)out;
    const uint32_t word = (unsigned char)value * 0x01010101u;
    for (; n >= 4; n -= 4) {
        *words++ = word;
        OPAQUE();
    }
    out = (unsigned char *)words;
    for (; n > 0; n--) {
        *out++ = (unsigned char)value;
        OPAQUE();
    }
    return to;
}

int memcmp(const void *one, const void *other, size_t n) {
    const unsigned char *a = one, *b = other;
    for (; n > 0; n--, a++, b++) {
        if (*a != *b) return *a - *b;
        OPAQUE();
    }
    return 0;
}

size_t strlen(const char *text) {
    size_t n = 0;
    while (text[n] != 0) {
        n++;
        OPAQUE();
    }
    return n;
}
