/* Opens damaged tables and encodes texts with those that open: for a sanitizer to watch.
 *
 * For libFuzzer, LLVMFuzzerTestOneInput takes a table: clang -fsanitize=fuzzer,address -DLIBFUZZER.
 * For any other compiler there is a driver that damages a good table on purpose, in a header that stays readable
 * too: fuzz_tables TABLE SEED ROUNDS. It prints how many tables opened, and how many texts gave ids. */
#include "embedding_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4000, MAX_LENGTH = 600, LARGEST_ID = 1 << 21 };
static unsigned long opened, encoded, refused;

static const char *const TEXTS[] = {
    "",
    "Which planet is known as the Red Planet?  a  b   c\n\n\n\t<bos><eos><b></s>[X]",
    "\xCE\xA3\xCE\x91\xCE\xA3 \xC4\xB0stanbul \xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80 \xE2\x96\x81\xE2\x96\x81x",
};

static void encode(const embedding_tokenizer *tokenizer, const char *bytes, size_t size, int allow_special)
{
    static int32_t ids[MAX_LENGTH];
    embedding_tokenizer_error error;
    size_t count;
    int truncated;
    char *text = malloc(size ? size : 1); /* exactly as long, so that a read behind it is seen */
    memcpy(text, bytes, size);
    embedding_tokenizer_input input = {"task: search result | query: ", 29, text, size, allow_special};
    embedding_tokenizer_status status =
        embedding_tokenizer_encode(tokenizer, &input, ids, MAX_LENGTH, &count, &truncated, &error);
    if ((status == EMBEDDING_TOKENIZER_OK) != (count >= 2))
        abort();
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= LARGEST_ID)
            abort();
    if (status == EMBEDDING_TOKENIZER_OK)
        encoded++;
    else
        refused++;
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char run[MOST];
    embedding_tokenizer_error error;
    for (int way = 0; way < 2; way++) { /* as it is written, and lowered with control tokens */
        embedding_tokenizer *tokenizer = embedding_tokenizer_open_memory(data, size, way, &error);
        if (!tokenizer)
            return 0;
        opened++;
        embedding_tokenizer_verify(tokenizer, &error);
        for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
            encode(tokenizer, TEXTS[i], strlen(TEXTS[i]), way);
        memset(run, "a \n<"[opened % 4], sizeof run);
        encode(tokenizer, run, sizeof run, way);
        embedding_tokenizer_close(tokenizer);
    }
    return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13; /* xorshift64 */
    state ^= state >> 7;
    state ^= state << 17;
    return below ? state % below : 0;
}

static uint32_t load(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

static void store(uint8_t *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t crc32(const uint8_t *p, size_t size)
{
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? UINT32_C(0xEDB88320) : 0);
    }
    return ~c;
}

/* The other version, or the other way to cut words: as good a table, whose other paths are damaged then. */
static void turn(uint8_t *table)
{
    uint32_t size = load(table + 12);
    table[8] = (uint8_t)(1 + draw(2));
    for (uint8_t *p = table + 20; p + 8 < table + 20 + size; p++)
        if (!memcmp(p, "\"cuts\":", 7))
            p[7] = (uint8_t)('0' + draw(2));
    store(table + 16, crc32(table + 20, size));
}

/* Another digit, or another character, somewhere in the header; its checksum is made right again. */
static void damage_header(uint8_t *table)
{
    uint32_t size = load(table + 12);
    for (uint64_t times = 1 + draw(3); times; times--) {
        uint8_t *p = table + 20 + draw(size);
        while (draw(8) && (*p < '0' || *p > '9'))
            p = table + 20 + draw(size);
        *p = (uint8_t)(draw(10) ? '0' + draw(10) : draw(256));
    }
    store(table + 16, crc32(table + 20, size));
}

/* Numbers that are too large, too small or another's, anywhere; in small sections as often as in large ones. */
static void damage_sections(uint8_t *table, size_t size)
{
    static const uint32_t edges[] = {0, 1, UINT32_MAX, INT32_MAX, 1u << 31, 1u << 30, 1u << 21, (1u << 21) - 1, 4096};
    size_t header = 20 + load(table + 12), rest = size - header;
    for (uint64_t times = 1 + draw(1 + draw(400)); times; times--) {
        size_t from_end = draw(2) ? draw(rest) : draw(1 + draw(1 + draw(rest)));
        size_t at = draw(2) ? size - 1 - from_end : header + from_end;
        uint8_t *p = table + (at & ~(size_t)3);
        if (p + 4 > table + size)
            continue;
        switch (draw(5)) {
        case 0: store(p, edges[draw(sizeof edges / sizeof *edges)]); break;
        case 1: store(p, load(p) + (uint32_t)draw(5) - 2); break;
        case 2: store(p, load(p) ^ 1u << draw(32)); break;
        case 3: /* neighbours by the same number, so that their differences stay */
            for (uint32_t more = edges[draw(sizeof edges / sizeof *edges)]; p + 4 <= table + size && draw(200); p += 4)
                store(p, load(p) + more);
            break;
        default: store(p, load(table + header + (draw(rest - 4) & ~(uint64_t)3)));
        }
    }
}

static void fuzz_text(const embedding_tokenizer *tokenizer)
{
    char text[64];
    size_t size = draw(sizeof text);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(draw(3) ? "\xE2\x96\x81 a<>\xF0\xC4\xB0"[draw(10)] : (int)draw(256));
    encode(tokenizer, text, size, (int)draw(2));
}

int main(int count, char **arguments)
{
    static uint8_t good[1 << 26];
    embedding_tokenizer_error error;
    FILE *file = count == 4 ? fopen(arguments[1], "rb") : NULL;
    if (!file)
        return 2;
    size_t size = fread(good, 1, sizeof good, file);
    fclose(file);
    state = strtoull(arguments[2], NULL, 10) * 2654435761u + 88172645463325252u;
    embedding_tokenizer *tokenizer = embedding_tokenizer_open_memory(good, size, 0, &error);
    if (!tokenizer)
        return 2;
    for (unsigned long round = strtoul(arguments[3], NULL, 10); round; round--) {
        uint64_t kind = draw(8);
        size_t kept = kind ? size : draw(draw(2) ? size : 2048);
        uint8_t *table = malloc(kept ? kept : 1);
        memcpy(table, good, kept);
        if (kind)
            turn(table);
        if (kind == 1 || kind == 2)
            damage_header(table);
        else if (kind > 2)
            damage_sections(table, kept);
        if (kind == 7)
            damage_header(table);
        LLVMFuzzerTestOneInput(table, kept);
        free(table);
        for (int i = 0; i < 20; i++)
            fuzz_text(tokenizer);
    }
    embedding_tokenizer_close(tokenizer);
    printf("%lu %lu %lu\n", opened, encoded, refused);
    return 0;
}
#endif
