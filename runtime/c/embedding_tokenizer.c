/* See embedding_tokenizer.h, and TOKENIZER_TABLE.md for the format: numbers in the file are little-endian.
 *
 * Nothing in a table is trusted: every index read from it is compared with the section's size before use, so a
 * damaged table ends in an error or in wrong ids, never in a read outside of it.
 */
#define _POSIX_C_SOURCE 200809L
#include "embedding_tokenizer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* Bytes of a stretch without a cut that are merged at a time; a test makes it small. */
#ifndef EMBEDDING_TOKENIZER_BLOCK
#define EMBEDDING_TOKENIZER_BLOCK 16384
#endif
#define SMALLEST_BLOCK (EMBEDDING_TOKENIZER_BLOCK < 256 ? EMBEDDING_TOKENIZER_BLOCK : 256)
#define BYTES_PER_TOKEN 8
_Static_assert(EMBEDDING_TOKENIZER_BLOCK >= BYTES_PER_TOKEN, "a block must hold a character");

#define PREFIX 20
#define LARGEST_HEADER (1u << 16)
#define LARGEST_NUMBER (UINT64_C(1) << 53)
#define LONGEST_PIECE 4096
#define LARGEST_TEXT (1u << 29)
#define ID_BITS 21
#define ID_MASK ((1u << ID_BITS) - 1)
#define KEY_MASK ((UINT64_C(1) << 2 * ID_BITS) - 1)
#define WHOLE (1u << ID_BITS)
#define EMPTY_SLOT UINT32_MAX
#define SPECIAL (1u << 31)
#define NORMALIZED (1u << 30)
#define NONE UINT32_MAX /* no id, no rank, no symbol */

typedef unsigned char byte;
typedef embedding_tokenizer table;

enum { PIECE_BYTES, PIECE_OFFSETS, PIECE_SLOTS, MERGE_SLOTS, MERGE_DISPLACEMENTS, MERGE_RESULTS, BYTE_IDS,
       ADDED_FIRST_CHILD, ADDED_CHAR, ADDED_TOKEN, SECTIONS };
static const char *const SECTION_NAMES[SECTIONS] = {
    "piece_bytes", "piece_offsets", "piece_slots", "merge_slots", "merge_displacements", "merge_results", "byte_ids",
    "added_first_child", "added_char", "added_token"};
static const char *const SECTION_TYPES[SECTIONS] = {"B", "I", "I", "Q", "H", "I", "I", "I", "I", "I"};

enum { VOCAB_SIZE, MERGES, BOS_ID, EOS_ID, LONGEST, CUTS, FIGURES };
static const char *const FIGURE_NAMES[FIGURES] = {"vocab_size", "merges", "bos_id", "eos_id", "longest_piece", "cuts"};

enum { OFFSET, COUNT, CRC32, PLACES };

typedef struct {
    const byte *at;
    uint64_t place[PLACES];
    uint64_t bytes;
} section;

struct embedding_tokenizer {
    const byte *data;
    size_t size;
    bool mapped, lower_case;
    uint32_t version;
    uint64_t figure[FIGURES];
    section sections[SECTIONS];
    uint32_t crc[8][256];
    uint32_t ascii[128];    /* ids of the characters that most texts are made of */
    bool begins_added[128]; /* whether an added token of the raw text may begin with it */
};

static embedding_tokenizer_status fail(embedding_tokenizer_error *error, embedding_tokenizer_status status,
                                       const char *format, ...)
{
    if (error) {
        va_list values;
        va_start(values, format);
        vsnprintf(error->message, sizeof error->message, format, values);
        va_end(values);
        error->status = status;
    }
    return status;
}

/* ---- Numbers of a section; the caller has compared the index with its count ---- */

static uint32_t load32(const byte *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load64(const byte *p) { return load32(p) | (uint64_t)load32(p + 4) << 32; }

static uint32_t item(const table *t, int name, uint64_t i) { return load32(t->sections[name].at + 4 * i); }

static uint64_t count_of(const table *t, int name) { return t->sections[name].place[COUNT]; }

/* zlib's CRC-32, eight bytes at a time. */
static void fill_crc(uint32_t crc[8][256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? UINT32_C(0xEDB88320) : 0);
        crc[0][i] = value;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++)
            crc[k][i] = crc[k - 1][i] >> 8 ^ crc[0][crc[k - 1][i] & 255];
}

static uint32_t crc32_of(const table *t, const byte *p, size_t size)
{
    uint32_t c = UINT32_MAX;
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t low = load32(p) ^ c, high = load32(p + 4);
        c = t->crc[7][low & 255] ^ t->crc[6][low >> 8 & 255] ^ t->crc[5][low >> 16 & 255] ^ t->crc[4][low >> 24] ^
            t->crc[3][high & 255] ^ t->crc[2][high >> 8 & 255] ^ t->crc[1][high >> 16 & 255] ^ t->crc[0][high >> 24];
    }
    for (; size; p++, size--)
        c = c >> 8 ^ t->crc[0][(c ^ *p) & 255];
    return ~c;
}

/* ---- The header: a JSON object of natural numbers, and one of such objects ---- */

typedef struct {
    const byte *at, *end;
} json;

static void skip_blanks(json *j)
{
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r'))
        j->at++;
}

static bool take(json *j, char expected)
{
    skip_blanks(j);
    return j->at < j->end && *j->at == (byte)expected && j->at++;
}

/* A string without escapes, as the position of its name in a list; -1 for anything else. */
static int take_name(json *j, const char *const names[], int count)
{
    if (!take(j, '"'))
        return -1;
    for (int i = 0; i < count; i++) {
        size_t length = strlen(names[i]);
        if ((size_t)(j->end - j->at) > length && !memcmp(j->at, names[i], length) && j->at[length] == '"') {
            j->at += length + 1;
            return i;
        }
    }
    return -1;
}

static bool take_number(json *j, uint64_t *out)
{
    skip_blanks(j);
    const byte *first = j->at;
    for (*out = 0; j->at < j->end && *j->at >= '0' && *j->at <= '9' && *out < LARGEST_NUMBER; j->at++)
        *out = 10 * *out + (uint64_t)(*j->at - '0');
    return j->at > first && (*first != '0' || j->at == first + 1) && *out < LARGEST_NUMBER;
}

static bool take_section(json *j, section *out, const char *const *type)
{
    static const char *const names[PLACES + 1] = {"offset", "count", "crc32", "type"};
    unsigned seen = 0;
    if (!take(j, '{'))
        return false;
    do {
        int name = take_name(j, names, PLACES + 1);
        if (name < 0 || seen & 1u << name || !take(j, ':'))
            return false;
        seen |= 1u << name;
        if (name < PLACES ? !take_number(j, &out->place[name]) : take_name(j, type, 1) < 0)
            return false;
    } while (take(j, ','));
    return take(j, '}') && seen == (1u << (PLACES + 1)) - 1;
}

static bool take_sections(json *j, section sections[SECTIONS])
{
    unsigned seen = 0;
    if (!take(j, '{'))
        return false;
    do {
        int name = take_name(j, SECTION_NAMES, SECTIONS);
        if (name < 0 || seen & 1u << name || !take(j, ':') || !take_section(j, &sections[name], &SECTION_TYPES[name]))
            return false;
        seen |= 1u << name;
    } while (take(j, ','));
    return take(j, '}') && seen == (1u << SECTIONS) - 1;
}

static bool take_header(json *j, uint64_t figure[FIGURES], section sections[SECTIONS])
{
    const char *names[FIGURES + 1];
    unsigned seen = 0;
    memcpy(names, FIGURE_NAMES, sizeof FIGURE_NAMES);
    names[FIGURES] = "sections";
    if (!take(j, '{'))
        return false;
    do {
        int name = take_name(j, names, FIGURES + 1);
        if (name < 0 || seen & 1u << name || !take(j, ':'))
            return false;
        seen |= 1u << name;
        if (name < FIGURES ? !take_number(j, &figure[name]) : !take_sections(j, sections))
            return false;
    } while (take(j, ','));
    bool closed = take(j, '}');
    skip_blanks(j);
    return closed && j->at == j->end && seen == (1u << (FIGURES + 1)) - 1;
}

/* ---- Entries and merges. `damaged` is set where the table contradicts itself ---- */

static bool find_bytes(const table *t, uint32_t id, const byte **at, size_t *size)
{
    if (id >= t->figure[VOCAB_SIZE])
        return false;
    uint32_t first = item(t, PIECE_OFFSETS, id), last = item(t, PIECE_OFFSETS, id + 1);
    *at = t->sections[PIECE_BYTES].at + first;
    *size = last - first;
    return first <= last && last <= count_of(t, PIECE_BYTES);
}

/* Id of the model's entry with this text, with WHOLE set where it applies; NONE where there is none. */
static uint32_t find_piece(const table *t, const byte *text, size_t size, bool *damaged)
{
    uint32_t crc = crc32_of(t, text, size);
    uint64_t slots = count_of(t, PIECE_SLOTS);
    for (uint64_t i = 0; i < slots; i++) {
        uint32_t slot = item(t, PIECE_SLOTS, (crc + i) & (slots - 1));
        const byte *found;
        size_t length;
        if (slot == EMPTY_SLOT)
            return NONE;
        if (slot >> 22 != crc >> 22)
            continue;
        if (!find_bytes(t, slot & ID_MASK, &found, &length)) {
            *damaged = true;
            return NONE;
        }
        if (length == size && !memcmp(found, text, size))
            return slot & (WHOLE | ID_MASK);
    }
    return NONE;
}

/* Id of the character that these bytes are; NONE where it has no entry. */
static uint32_t find_symbol(const table *t, const byte *text, size_t size, bool *damaged)
{
    if (*text < 128)
        return t->ascii[*text];
    uint32_t found = find_piece(t, text, size, damaged);
    return found == NONE ? NONE : found & ID_MASK;
}

/* Rank of a pair's merge; NONE where there is none. */
static uint32_t find_rank(const table *t, uint32_t left, uint32_t right, bool *damaged)
{
    uint64_t key = (uint64_t)left << ID_BITS | right, slots = count_of(t, MERGE_SLOTS);
    uint64_t bucket = key % count_of(t, MERGE_DISPLACEMENTS), stride = (slots >> 16) + 1;
    const byte *displacement = t->sections[MERGE_DISPLACEMENTS].at + 2 * bucket;
    uint64_t place = (key + stride * (displacement[0] | (uint64_t)displacement[1] << 8)) % slots;
    uint64_t slot = load64(t->sections[MERGE_SLOTS].at + 8 * place);
    if ((slot & KEY_MASK) != key)
        return NONE;
    uint32_t rank = (uint32_t)(slot >> 2 * ID_BITS);
    if (rank < t->figure[MERGES] && item(t, MERGE_RESULTS, rank) < t->figure[VOCAB_SIZE])
        return rank;
    *damaged = true;
    return NONE;
}

/* ---- Texts ---- */

/* A prompt and a text behind it, read as one; both are valid UTF-8. */
typedef struct {
    const byte *prompt, *text;
    size_t prompt_bytes, bytes;
} source;

static size_t char_bytes(byte first) { return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4; }

static const byte *bytes_at(const source *s, size_t i)
{
    return i < s->prompt_bytes ? s->prompt + i : s->text + (i - s->prompt_bytes);
}

/* The code point of a valid character. */
static uint32_t decode(const byte *p)
{
    switch (char_bytes(*p)) {
    case 1: return *p;
    case 2: return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    case 3: return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    default: return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    }
}

static size_t encode_char(uint32_t c, byte out[4])
{
    size_t size = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const byte marks[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = size - 1; i; i--, c >>= 6)
        out[i] = (byte)(0x80 | (c & 0x3F));
    out[0] = (byte)(marks[size] | c);
    return size;
}

/* Where the first byte is that is no part of a valid character; `size` where there is none. */
static size_t find_invalid(const byte *p, size_t size)
{
    for (size_t i = 0; i < size;) {
        size_t length = char_bytes(p[i]);
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        if (p[i] < 0xC2 || p[i] > 0xF4 || length > size - i)
            return i;
        for (size_t k = 1; k < length; k++)
            if ((p[i + k] & 0xC0) != 0x80)
                return i;
        uint32_t c = decode(p + i);
        if (c < (length == 3 ? 0x800u : length == 4 ? 0x10000u : 0u) || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
            return i;
        i += length;
    }
    return size;
}

/* Characters that lower to one other, as the `tokenizers` library does (Unicode 17): every `step`th from `first`
 * to `last`, by adding `change`. Only U+0130 lowers to two. */
static const struct {
    uint32_t first, last, step;
    int32_t change;
} LOWER[] = {
    {0x41, 0x5A, 1, 32}, {0xC0, 0xD6, 1, 32}, {0xD8, 0xDE, 1, 32}, {0x100, 0x12E, 2, 1}, {0x132, 0x136, 2, 1},
    {0x139, 0x147, 2, 1}, {0x14A, 0x176, 2, 1}, {0x178, 0x178, 1, -121}, {0x179, 0x17D, 2, 1},
    {0x181, 0x181, 1, 210}, {0x182, 0x184, 2, 1}, {0x186, 0x186, 1, 206}, {0x187, 0x187, 1, 1},
    {0x189, 0x18A, 1, 205}, {0x18B, 0x18B, 1, 1}, {0x18E, 0x18E, 1, 79}, {0x18F, 0x18F, 1, 202},
    {0x190, 0x190, 1, 203}, {0x191, 0x191, 1, 1}, {0x193, 0x193, 1, 205}, {0x194, 0x194, 1, 207},
    {0x196, 0x196, 1, 211}, {0x197, 0x197, 1, 209}, {0x198, 0x198, 1, 1}, {0x19C, 0x19C, 1, 211},
    {0x19D, 0x19D, 1, 213}, {0x19F, 0x19F, 1, 214}, {0x1A0, 0x1A4, 2, 1}, {0x1A6, 0x1A6, 1, 218},
    {0x1A7, 0x1A7, 1, 1}, {0x1A9, 0x1A9, 1, 218}, {0x1AC, 0x1AC, 1, 1}, {0x1AE, 0x1AE, 1, 218},
    {0x1AF, 0x1AF, 1, 1}, {0x1B1, 0x1B2, 1, 217}, {0x1B3, 0x1B5, 2, 1}, {0x1B7, 0x1B7, 1, 219},
    {0x1B8, 0x1B8, 1, 1}, {0x1BC, 0x1BC, 1, 1}, {0x1C4, 0x1C4, 1, 2}, {0x1C5, 0x1C5, 1, 1},
    {0x1C7, 0x1C7, 1, 2}, {0x1C8, 0x1C8, 1, 1}, {0x1CA, 0x1CA, 1, 2}, {0x1CB, 0x1DB, 2, 1},
    {0x1DE, 0x1EE, 2, 1}, {0x1F1, 0x1F1, 1, 2}, {0x1F2, 0x1F4, 2, 1}, {0x1F6, 0x1F6, 1, -97},
    {0x1F7, 0x1F7, 1, -56}, {0x1F8, 0x21E, 2, 1}, {0x220, 0x220, 1, -130}, {0x222, 0x232, 2, 1},
    {0x23A, 0x23A, 1, 10795}, {0x23B, 0x23B, 1, 1}, {0x23D, 0x23D, 1, -163}, {0x23E, 0x23E, 1, 10792},
    {0x241, 0x241, 1, 1}, {0x243, 0x243, 1, -195}, {0x244, 0x244, 1, 69}, {0x245, 0x245, 1, 71},
    {0x246, 0x24E, 2, 1}, {0x370, 0x372, 2, 1}, {0x376, 0x376, 1, 1}, {0x37F, 0x37F, 1, 116},
    {0x386, 0x386, 1, 38}, {0x388, 0x38A, 1, 37}, {0x38C, 0x38C, 1, 64}, {0x38E, 0x38F, 1, 63},
    {0x391, 0x3A1, 1, 32}, {0x3A3, 0x3AB, 1, 32}, {0x3CF, 0x3CF, 1, 8}, {0x3D8, 0x3EE, 2, 1},
    {0x3F4, 0x3F4, 1, -60}, {0x3F7, 0x3F7, 1, 1}, {0x3F9, 0x3F9, 1, -7}, {0x3FA, 0x3FA, 1, 1},
    {0x3FD, 0x3FF, 1, -130}, {0x400, 0x40F, 1, 80}, {0x410, 0x42F, 1, 32}, {0x460, 0x480, 2, 1},
    {0x48A, 0x4BE, 2, 1}, {0x4C0, 0x4C0, 1, 15}, {0x4C1, 0x4CD, 2, 1}, {0x4D0, 0x52E, 2, 1},
    {0x531, 0x556, 1, 48}, {0x10A0, 0x10C5, 1, 7264}, {0x10C7, 0x10C7, 1, 7264}, {0x10CD, 0x10CD, 1, 7264},
    {0x13A0, 0x13EF, 1, 38864}, {0x13F0, 0x13F5, 1, 8}, {0x1C89, 0x1C89, 1, 1}, {0x1C90, 0x1CBA, 1, -3008},
    {0x1CBD, 0x1CBF, 1, -3008}, {0x1E00, 0x1E94, 2, 1}, {0x1E9E, 0x1E9E, 1, -7615}, {0x1EA0, 0x1EFE, 2, 1},
    {0x1F08, 0x1F0F, 1, -8}, {0x1F18, 0x1F1D, 1, -8}, {0x1F28, 0x1F2F, 1, -8}, {0x1F38, 0x1F3F, 1, -8},
    {0x1F48, 0x1F4D, 1, -8}, {0x1F59, 0x1F5F, 2, -8}, {0x1F68, 0x1F6F, 1, -8}, {0x1F88, 0x1F8F, 1, -8},
    {0x1F98, 0x1F9F, 1, -8}, {0x1FA8, 0x1FAF, 1, -8}, {0x1FB8, 0x1FB9, 1, -8}, {0x1FBA, 0x1FBB, 1, -74},
    {0x1FBC, 0x1FBC, 1, -9}, {0x1FC8, 0x1FCB, 1, -86}, {0x1FCC, 0x1FCC, 1, -9}, {0x1FD8, 0x1FD9, 1, -8},
    {0x1FDA, 0x1FDB, 1, -100}, {0x1FE8, 0x1FE9, 1, -8}, {0x1FEA, 0x1FEB, 1, -112}, {0x1FEC, 0x1FEC, 1, -7},
    {0x1FF8, 0x1FF9, 1, -128}, {0x1FFA, 0x1FFB, 1, -126}, {0x1FFC, 0x1FFC, 1, -9}, {0x2126, 0x2126, 1, -7517},
    {0x212A, 0x212A, 1, -8383}, {0x212B, 0x212B, 1, -8262}, {0x2132, 0x2132, 1, 28}, {0x2160, 0x216F, 1, 16},
    {0x2183, 0x2183, 1, 1}, {0x24B6, 0x24CF, 1, 26}, {0x2C00, 0x2C2F, 1, 48}, {0x2C60, 0x2C60, 1, 1},
    {0x2C62, 0x2C62, 1, -10743}, {0x2C63, 0x2C63, 1, -3814}, {0x2C64, 0x2C64, 1, -10727},
    {0x2C67, 0x2C6B, 2, 1}, {0x2C6D, 0x2C6D, 1, -10780}, {0x2C6E, 0x2C6E, 1, -10749},
    {0x2C6F, 0x2C6F, 1, -10783}, {0x2C70, 0x2C70, 1, -10782}, {0x2C72, 0x2C72, 1, 1}, {0x2C75, 0x2C75, 1, 1},
    {0x2C7E, 0x2C7F, 1, -10815}, {0x2C80, 0x2CE2, 2, 1}, {0x2CEB, 0x2CED, 2, 1}, {0x2CF2, 0x2CF2, 1, 1},
    {0xA640, 0xA66C, 2, 1}, {0xA680, 0xA69A, 2, 1}, {0xA722, 0xA72E, 2, 1}, {0xA732, 0xA76E, 2, 1},
    {0xA779, 0xA77B, 2, 1}, {0xA77D, 0xA77D, 1, -35332}, {0xA77E, 0xA786, 2, 1}, {0xA78B, 0xA78B, 1, 1},
    {0xA78D, 0xA78D, 1, -42280}, {0xA790, 0xA792, 2, 1}, {0xA796, 0xA7A8, 2, 1}, {0xA7AA, 0xA7AA, 1, -42308},
    {0xA7AB, 0xA7AB, 1, -42319}, {0xA7AC, 0xA7AC, 1, -42315}, {0xA7AD, 0xA7AD, 1, -42305},
    {0xA7AE, 0xA7AE, 1, -42308}, {0xA7B0, 0xA7B0, 1, -42258}, {0xA7B1, 0xA7B1, 1, -42282},
    {0xA7B2, 0xA7B2, 1, -42261}, {0xA7B3, 0xA7B3, 1, 928}, {0xA7B4, 0xA7C2, 2, 1}, {0xA7C4, 0xA7C4, 1, -48},
    {0xA7C5, 0xA7C5, 1, -42307}, {0xA7C6, 0xA7C6, 1, -35384}, {0xA7C7, 0xA7C9, 2, 1},
    {0xA7CB, 0xA7CB, 1, -42343}, {0xA7CC, 0xA7DA, 2, 1}, {0xA7DC, 0xA7DC, 1, -42561}, {0xA7F5, 0xA7F5, 1, 1},
    {0xFF21, 0xFF3A, 1, 32}, {0x10400, 0x10427, 1, 40}, {0x104B0, 0x104D3, 1, 40}, {0x10570, 0x1057A, 1, 39},
    {0x1057C, 0x1058A, 1, 39}, {0x1058C, 0x10592, 1, 39}, {0x10594, 0x10595, 1, 39},
    {0x10C80, 0x10CB2, 1, 64}, {0x10D50, 0x10D65, 1, 32}, {0x118A0, 0x118BF, 1, 32},
    {0x16E40, 0x16E5F, 1, 32}, {0x16EA0, 0x16EB8, 1, 27}, {0x1E900, 0x1E921, 1, 34},
};

static uint32_t lower(uint32_t c)
{
    size_t low = 0, high = sizeof LOWER / sizeof *LOWER;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (LOWER[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < sizeof LOWER / sizeof *LOWER && c >= LOWER[low].first &&
                 (c - LOWER[low].first) % LOWER[low].step == 0;
    return found ? (uint32_t)((int32_t)c + LOWER[low].change) : c;
}

/* ---- Added tokens: a trie ---- */

typedef struct {
    size_t stop;
    uint32_t value; /* 0: none begins here */
} match;

/* The child of a node with this character; NONE where there is none. */
static uint32_t find_child(const table *t, uint32_t node, uint32_t c, bool *damaged)
{
    uint32_t low = item(t, ADDED_FIRST_CHILD, node), last = item(t, ADDED_FIRST_CHILD, node + 1), high = last;
    if (low > last || last > count_of(t, ADDED_CHAR)) {
        *damaged = true;
        return NONE;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (item(t, ADDED_CHAR, middle) < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < last && item(t, ADDED_CHAR, low) == c ? low : NONE;
}

/* The longest token of one kind, 0 or NORMALIZED, that begins at `begin`. */
static match find_added(const table *t, const source *s, size_t begin, uint32_t kind, bool *damaged)
{
    match found = {begin, 0};
    uint32_t node = 0;
    for (size_t i = begin; i < s->bytes;) {
        const byte *p = bytes_at(s, i);
        node = find_child(t, node, decode(p), damaged);
        if (node == NONE)
            break;
        i += char_bytes(*p);
        uint32_t value = item(t, ADDED_TOKEN, node);
        if (value && (value & NORMALIZED) == kind)
            found = (match){i, value};
    }
    return found;
}

/* ---- Reading: one text on its way to ids ---- */

typedef struct {
    uint32_t id;
    uint32_t highest; /* rank it takes to make it from characters; NONE: none, it is there already */
} candidate;

typedef struct {
    const table *t;
    source raw;
    bool allow_special;
    size_t position, hidden; /* in the raw text: what is read; before `hidden` no token begins */
    byte *normal;            /* the stretch between two added tokens as it is normalized, as far as it is read */
    size_t length, room;
    uint32_t added; /* the token behind the stretch, 0 for none */
    bool ended;     /* all of the stretch is read */
    int32_t *ids;
    size_t count, limit;
    bool full, damaged, no_memory;
    /* What merging needs for `symbol_room` symbols. */
    size_t symbol_room;
    uint32_t *symbols, *next, *previous, *starts;
    uint64_t *heap;
    candidate *candidates;
    size_t candidate_room, candidate_count;
    uint32_t *characters;
} reading;

static bool broken(const reading *r) { return r->damaged || r->no_memory; }

static void emit(reading *r, uint32_t id)
{
    if (id >= r->t->figure[VOCAB_SIZE])
        r->damaged = true;
    else if (r->count < r->limit - 1)
        r->ids[r->count++] = (int32_t)id;
    else
        r->full = true;
}

static bool reserve(reading *r, void *pointer, size_t count, size_t size)
{
    void *old, *grown;
    memcpy(&old, pointer, sizeof old);
    grown = count <= SIZE_MAX / size ? realloc(old, count * size) : NULL;
    if (grown)
        memcpy(pointer, &grown, sizeof grown);
    r->no_memory = r->no_memory || !grown;
    return grown != NULL;
}

/* The next character as it is normalized: lowered where asked, a space as U+2581. */
static void append_char(reading *r)
{
    if (r->room - r->length < 8) {
        size_t room = r->room < SIZE_MAX / 4 ? 2 * r->room + 256 : SIZE_MAX;
        if (!reserve(r, &r->normal, room, 1))
            return;
        r->room = room;
    }
    const byte *p = bytes_at(&r->raw, r->position);
    size_t size = char_bytes(*p);
    byte *out = r->normal + r->length;
    r->position += size;
    if (*p == ' ') {
        memcpy(out, "\xE2\x96\x81", 3);
        r->length += 3;
    } else if (!r->t->lower_case) {
        memcpy(out, p, size);
        r->length += size;
    } else if (size == 2 && !memcmp(p, "\xC4\xB0", 2)) {
        memcpy(out, "i\xCC\x87", 3);
        r->length += 3;
    } else {
        r->length += encode_char(lower(decode(p)), out);
    }
}

/* Read on until `wanted` bytes of the stretch's normal form are there, or it ends. */
static void fill(reading *r, size_t wanted)
{
    while (!r->ended && r->length < wanted && !broken(r)) {
        if (r->position == r->raw.bytes) {
            r->ended = true;
            return;
        }
        byte first = *bytes_at(&r->raw, r->position);
        if (r->position >= r->hidden && (first >= 128 || r->t->begins_added[first])) {
            match found = find_added(r->t, &r->raw, r->position, 0, &r->damaged);
            if (found.value && (r->allow_special || !(found.value & SPECIAL))) {
                r->added = found.value;
                r->position = found.stop;
                r->ended = true;
                return;
            }
            r->hidden = found.stop; /* a control token that is text: no other token begins inside it */
        }
        append_char(r);
    }
}

/* ---- Merging: of all neighbouring pairs that have a rank the lowest first, the leftmost of equals first.
 *
 * A stretch that is longer than a block is merged from its beginning as far as the rest cannot change it. The
 * argument is in embedding_runtime/tokenizers/bpe.py, `merge_open`, of which this is a translation. ---- */

typedef struct {
    reading *r;
    size_t count;  /* symbols */
    size_t border; /* the first symbol that is not certain */
    size_t stop;   /* end of the normal text that is known */
    size_t heap_count;
    uint32_t passed; /* highest rank merged, plus 1 */
    uint32_t turn;   /* rank at which the last certain symbol is given up */
} merging;

static void push(merging *m, uint64_t value)
{
    uint64_t *heap = m->r->heap;
    size_t i = m->heap_count++;
    for (; i && heap[(i - 1) / 2] > value; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = value;
}

static uint64_t pop(merging *m)
{
    uint64_t *heap = m->r->heap, least = heap[0], value = heap[--m->heap_count];
    size_t i = 0;
    for (size_t child = 1; child < m->heap_count; child = 2 * i + 1) {
        if (child + 1 < m->heap_count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = value;
    return least;
}

/* The highest rank used while `count` characters are merged into one entry; NONE where nothing merges. */
static uint32_t highest_rank(reading *r, uint32_t *ids, size_t count)
{
    uint32_t highest = NONE;
    while (count > 1) {
        size_t best = 0;
        uint32_t least = NONE;
        for (size_t i = 0; i + 1 < count; i++) {
            uint32_t rank = find_rank(r->t, ids[i], ids[i + 1], &r->damaged);
            if (rank < least) {
                least = rank;
                best = i;
            }
        }
        if (least == NONE)
            break;
        highest = highest == NONE || least > highest ? least : highest;
        ids[best] = item(r->t, MERGE_RESULTS, least);
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        count--;
    }
    return highest;
}

/* Entries of more than `longer_than` characters that the text behind the border could begin with. */
static void find_candidates(merging *m, size_t longer_than)
{
    reading *r = m->r;
    size_t start = r->starts[m->border], end = start, longest = (size_t)r->t->figure[LONGEST];
    uint32_t *symbols = r->characters, *scratch = symbols + longest;
    for (size_t count = 0; count < longest && end < m->stop; count++) {
        size_t size = char_bytes(r->normal[end]);
        symbols[count] = find_symbol(r->t, r->normal + end, size, &r->damaged);
        end += size;
        if (symbols[count] == NONE)
            return; /* bytes never merge */
        if (count < longer_than)
            continue;
        uint32_t found = find_piece(r->t, r->normal + start, end - start, &r->damaged);
        if (found == NONE || !(found & WHOLE))
            continue;
        memcpy(scratch, symbols, (count + 1) * sizeof *symbols);
        r->candidates[r->candidate_count++] = (candidate){found & ID_MASK, highest_rank(r, scratch, count + 1)};
    }
}

/* The lowest rank at which the last certain symbol could join what follows. */
static uint32_t rank_at_border(merging *m, size_t i)
{
    reading *r = m->r;
    int64_t lowest = INT64_MAX;
    for (size_t k = 0; k < r->candidate_count; k++) {
        const candidate *c = &r->candidates[k];
        uint32_t rank = find_rank(r->t, r->symbols[i], c->id, &r->damaged);
        if (rank == NONE)
            continue;
        /* What was made at a lower rank than one already passed may be there by now. */
        bool later = c->highest != NONE && c->highest + 1 >= m->passed;
        int64_t joined = later && c->highest > rank ? c->highest : rank;
        lowest = joined < lowest ? joined : lowest;
    }
    return lowest == INT64_MAX ? NONE : (uint32_t)lowest;
}

static void push_pair(merging *m, size_t i)
{
    reading *r = m->r;
    uint32_t rank;
    if (r->next[i] == m->border)
        rank = m->turn = rank_at_border(m, i);
    else
        rank = find_rank(r->t, r->symbols[i], r->symbols[r->next[i]], &r->damaged);
    if (rank != NONE)
        push(m, (uint64_t)rank << 32 | i);
}

static void join(merging *m, size_t i, uint32_t rank)
{
    reading *r = m->r;
    size_t gone = r->next[i], after = r->next[gone];
    r->symbols[i] = item(r->t, MERGE_RESULTS, rank);
    r->symbols[gone] = NONE;
    r->next[i] = (uint32_t)after;
    m->passed = rank + 1 > m->passed ? rank + 1 : m->passed;
    if (after < m->count)
        r->previous[after] = (uint32_t)i;
    push_pair(m, i);
    if (r->previous[i] != NONE)
        push_pair(m, r->previous[i]);
}

static void give_up(merging *m, size_t i)
{
    reading *r = m->r;
    size_t characters = m->border - i; /* symbols that merge are one character each */
    m->border = i;
    r->candidates[0] = (candidate){r->symbols[i], NONE};
    r->candidate_count = 1;
    find_candidates(m, characters);
    if (r->previous[i] != NONE)
        push_pair(m, r->previous[i]);
}

static void run(merging *m)
{
    reading *r = m->r;
    for (size_t i = 0; i < m->count; i++)
        push_pair(m, i);
    while (m->heap_count) {
        uint64_t least = pop(m);
        size_t i = (uint32_t)least;
        uint32_t rank = (uint32_t)(least >> 32);
        if (i >= m->border || r->symbols[i] == NONE)
            continue;
        if (r->next[i] == m->border) {
            if (rank == m->turn)
                give_up(m, i);
        } else if (find_rank(r->t, r->symbols[i], r->symbols[r->next[i]], &r->damaged) == rank) {
            join(m, i, rank);
        } /* else a pair that no longer exists */
    }
}

static bool make_room(reading *r, size_t symbols)
{
    size_t longest = (size_t)r->t->figure[LONGEST];
    if (!r->candidates && !(reserve(r, &r->candidates, longest + 1, sizeof *r->candidates) &&
                            reserve(r, &r->characters, 2 * longest, sizeof *r->characters)))
        return false;
    if (symbols <= r->symbol_room)
        return true;
    r->symbol_room = 0;
    bool done = reserve(r, &r->symbols, symbols, sizeof *r->symbols) &&
                reserve(r, &r->next, symbols, sizeof *r->next) &&
                reserve(r, &r->previous, symbols, sizeof *r->previous) &&
                reserve(r, &r->starts, symbols + 1, sizeof *r->starts) &&
                reserve(r, &r->heap, 4 * symbols, sizeof *r->heap); /* each, 2 per join, 1 per symbol given up */
    r->symbol_room = done ? symbols : 0;
    return done;
}

/* Emit the tokens of the normal text from `start` to `head` as far as what follows, up to `stop`, cannot change
 * them; returns where they end. */
static size_t merge(reading *r, size_t start, size_t head, size_t stop)
{
    if (!make_room(r, head - start))
        return start;
    merging m = {.r = r, .stop = stop, .turn = NONE};
    for (size_t at = start, size; at < head; at += size) {
        size = char_bytes(r->normal[at]);
        uint32_t symbol = find_symbol(r->t, r->normal + at, size, &r->damaged);
        for (size_t k = 0; k < (symbol == NONE ? size : 1); k++) {
            uint32_t id = symbol == NONE ? item(r->t, BYTE_IDS, r->normal[at + k]) : symbol;
            r->symbols[m.count] = id;
            r->starts[m.count] = (uint32_t)at;
            r->next[m.count] = (uint32_t)m.count + 1;
            r->previous[m.count] = m.count ? (uint32_t)m.count - 1 : NONE;
            m.count++;
        }
    }
    r->starts[m.count] = (uint32_t)head;
    m.border = m.count;
    r->candidate_count = 0;
    if (head < stop)
        find_candidates(&m, 0);
    run(&m);
    for (size_t i = 0; i < m.border && !r->full && !r->damaged; i = r->next[i])
        emit(r, r->symbols[i]);
    return r->starts[m.border];
}

/* Where the word that begins at `start` ends, no later than `end`: before the next run of U+2581. */
static size_t word_end(const reading *r, size_t start, size_t end)
{
    bool marks = true;
    for (size_t at = start; at < end; at += char_bytes(r->normal[at])) {
        bool mark = r->normal[at] == 0xE2 && !memcmp(r->normal + at, "\xE2\x96\x81", 3);
        if (mark && !marks)
            return at;
        marks = marks && mark;
    }
    return end;
}

/* Emit the ids of the normal text from `start` to `stop` (or the stretch's end), reading on as it needs. */
static void emit_words(reading *r, size_t start, size_t stop)
{
    bool few = r->limit < EMBEDDING_TOKENIZER_BLOCK / BYTES_PER_TOKEN;
    size_t block = few ? BYTES_PER_TOKEN * r->limit : EMBEDDING_TOKENIZER_BLOCK;
    block = block < SMALLEST_BLOCK ? SMALLEST_BLOCK : block;
    while (!r->full && !broken(r)) {
        fill(r, start + block + 4 * (size_t)r->t->figure[LONGEST]);
        size_t known = stop < r->length ? stop : r->length;
        if (start >= known || broken(r))
            return;
        size_t end = r->t->figure[CUTS] ? word_end(r, start, known) : known;
        if (end - start <= block) {
            uint32_t piece = find_piece(r->t, r->normal + start, end - start, &r->damaged);
            if (piece != NONE && piece & WHOLE)
                emit(r, piece & ID_MASK);
            else
                merge(r, start, end, end);
            start = end;
            continue;
        }
        size_t head = start + block;
        while ((r->normal[head] & 0xC0) == 0x80)
            head--;
        size_t border = merge(r, start, head, end);
        if (2 * (border - start) < block)
            block *= 2; /* so that starting anew stays a small part of the work */
        start = border;
    }
}

/* Emit the ids of one stretch: the text up to the next added token of the raw text, or its end. */
static void emit_stretch(reading *r)
{
    r->length = 0;
    r->added = 0;
    r->ended = false;
    size_t start = 0;
    if (r->t->version > 1) { /* added tokens of the normalized text */
        fill(r, SIZE_MAX);
        source normal = {NULL, r->normal, 0, r->length};
        for (size_t at = 0; at < r->length && !r->full && !broken(r);) {
            match found = find_added(r->t, &normal, at, NORMALIZED, &r->damaged);
            bool taken = found.value && (r->allow_special || !(found.value & SPECIAL));
            if (taken) {
                emit_words(r, start, at);
                emit(r, (found.value & (NORMALIZED - 1)) - 1);
                start = found.stop;
            }
            at = found.value ? found.stop : at + char_bytes(r->normal[at]);
        }
    }
    emit_words(r, start, SIZE_MAX);
    if (r->added && !r->full && !broken(r))
        emit(r, (r->added & (NORMALIZED - 1)) - 1);
}

static embedding_tokenizer_status check_input(const embedding_tokenizer *t, const embedding_tokenizer_input *input,
                                              const int32_t *ids, size_t max_length, const size_t *count,
                                              embedding_tokenizer_error *error)
{
    if (!t || !input || !ids || !count || (!input->prompt && input->prompt_bytes) || (!input->text && input->text_bytes))
        return fail(error, EMBEDDING_TOKENIZER_INVALID_ARGUMENT, "A pointer is null; expected one to read or write.");
    if (max_length < 2 || max_length > INT32_MAX)
        return fail(error, EMBEDDING_TOKENIZER_INVALID_ARGUMENT,
                    "max_length is %zu; expected at least 2: <bos> and <eos> are counted.", max_length);
    if (input->prompt_bytes >= LARGEST_TEXT || input->text_bytes >= LARGEST_TEXT)
        return fail(error, EMBEDDING_TOKENIZER_INVALID_ARGUMENT, "Prompt and text have %zu and %zu bytes; expected "
                    "less than 512 MiB each. Embed the text in parts.", input->prompt_bytes, input->text_bytes);
    const char *texts[2] = {input->prompt, input->text};
    size_t sizes[2] = {input->prompt_bytes, input->text_bytes};
    for (int i = 0; i < 2; i++) {
        size_t at = sizes[i] ? find_invalid((const byte *)texts[i], sizes[i]) : 0;
        if (at < sizes[i])
            return fail(error, EMBEDDING_TOKENIZER_INVALID_UTF8,
                        "The %s has a byte 0x%02X at position %zu that is not UTF-8. Decode the source correctly, or "
                        "replace such bytes.", i ? "text" : "prompt", ((const byte *)texts[i])[at], at);
    }
    return EMBEDDING_TOKENIZER_OK;
}

embedding_tokenizer_status embedding_tokenizer_encode(const embedding_tokenizer *t,
                                                      const embedding_tokenizer_input *input, int32_t *ids,
                                                      size_t max_length, size_t *count, int *truncated,
                                                      embedding_tokenizer_error *error)
{
    if (count)
        *count = 0;
    embedding_tokenizer_status status = check_input(t, input, ids, max_length, count, error);
    if (status)
        return status;
    reading r = {.t = t, .allow_special = input->allow_special != 0, .ids = ids, .limit = max_length};
    r.raw = (source){(const byte *)input->prompt, (const byte *)input->text, input->prompt_bytes,
                     input->prompt_bytes + input->text_bytes};
    ids[r.count++] = (int32_t)t->figure[BOS_ID];
    do
        emit_stretch(&r);
    while (r.position < r.raw.bytes && !r.full && !broken(&r));
    ids[r.count++] = (int32_t)t->figure[EOS_ID];
    void *const memory[] = {r.normal, r.symbols, r.next, r.previous, r.starts, r.heap, r.candidates, r.characters};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    if (r.no_memory)
        return fail(error, EMBEDDING_TOKENIZER_NO_MEMORY, "No memory for a text of %zu bytes. Lower max_length, or "
                    "embed the text in parts.", r.raw.bytes);
    if (r.damaged)
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "The tokenizer table contradicts itself: it is damaged. Copy "
                    "or export the bundle again.");
    *count = r.count;
    if (truncated)
        *truncated = r.full;
    return EMBEDDING_TOKENIZER_OK;
}

/* ---- Opening ---- */

static embedding_tokenizer_status read_header(table *t, const char *name, embedding_tokenizer_error *error)
{
    if (t->size < PREFIX)
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s has %zu bytes, fewer than a table's prefix. Copy or "
                    "export the bundle again.", name, t->size);
    if (memcmp(t->data, "EMBTABLE", 8))
        return fail(error, EMBEDDING_TOKENIZER_NOT_A_TABLE, "%.100s is no tokenizer table: expected it to begin with "
                    "EMBTABLE. Open the bundle's tokenizer.table.", name);
    t->version = load32(t->data + 8);
    if (t->version != 1 && t->version != 2)
        return fail(error, EMBEDDING_TOKENIZER_OTHER_VERSION, "%.100s is a tokenizer table of version %lu; this reader "
                    "reads 1 and 2. Take a newer reader, or export the bundle again.", name,
                    (unsigned long)t->version);
    size_t size = load32(t->data + 12);
    if (size > LARGEST_HEADER || size > t->size - PREFIX ||
        crc32_of(t, t->data + PREFIX, size) != load32(t->data + 16))
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s is damaged in its header (wrong CRC-32). Copy or "
                    "export the bundle again.", name);
    json header = {t->data + PREFIX, t->data + PREFIX + size};
    if (!take_header(&header, t->figure, t->sections))
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s has a header this reader does not understand, near its "
                    "byte %zu. Take a newer reader, or export the bundle again.", name, (size_t)(header.at - t->data));
    return EMBEDDING_TOKENIZER_OK;
}

/* Whether sizes and places are such that every index below the counts can be read. */
static embedding_tokenizer_status check_sections(table *t, const char *name, embedding_tokenizer_error *error)
{
    uint64_t last = 0;
    for (int i = 0; i < SECTIONS; i++) {
        section *s = &t->sections[i];
        const char type = *SECTION_TYPES[i];
        uint64_t size = type == 'B' ? 1 : type == 'H' ? 2 : type == 'I' ? 4 : 8;
        if (s->place[OFFSET] % 8 || s->place[OFFSET] > t->size || s->place[COUNT] > (t->size - s->place[OFFSET]) / size)
            return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s has %zu bytes; its section %s needs more, or lies "
                        "askew. Copy or export the bundle again.", name, t->size, SECTION_NAMES[i]);
        s->bytes = s->place[COUNT] * size;
        s->at = t->data + s->place[OFFSET];
        last = s->place[OFFSET] + s->bytes > last ? s->place[OFFSET] + s->bytes : last;
    }
    uint64_t vocab = t->figure[VOCAB_SIZE], slots = count_of(t, PIECE_SLOTS), nodes = count_of(t, ADDED_CHAR);
    bool fits = last == t->size && vocab <= ID_MASK && count_of(t, PIECE_OFFSETS) == vocab + 1 &&
                count_of(t, MERGE_RESULTS) == t->figure[MERGES] && count_of(t, BYTE_IDS) == 256 && slots &&
                !(slots & (slots - 1)) && count_of(t, MERGE_SLOTS) && count_of(t, MERGE_DISPLACEMENTS) && nodes &&
                count_of(t, ADDED_FIRST_CHILD) == nodes + 1 && count_of(t, ADDED_TOKEN) == nodes &&
                t->figure[BOS_ID] < vocab && t->figure[EOS_ID] < vocab && t->figure[LONGEST] &&
                t->figure[LONGEST] <= LONGEST_PIECE && t->figure[CUTS] <= 1;
    if (!fits)
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s has %zu bytes, sections for %zu, and sizes that are "
                    "not a table's. Copy or export the bundle again.", name, t->size, (size_t)last);
    return EMBEDDING_TOKENIZER_OK;
}

static embedding_tokenizer_status open_table(table *t, const char *name, embedding_tokenizer_error *error)
{
    fill_crc(t->crc);
    embedding_tokenizer_status status = read_header(t, name, error);
    if (!status)
        status = check_sections(t, name, error);
    if (status)
        return status;
    bool damaged = false;
    for (uint32_t c = 0; c < 128; c++) {
        byte text = (byte)c;
        uint32_t found = find_piece(t, &text, 1, &damaged);
        t->ascii[c] = found == NONE ? NONE : found & ID_MASK;
        t->begins_added[c] = find_child(t, 0, c, &damaged) != NONE;
    }
    if (damaged)
        return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "%.100s contradicts itself: it is damaged. Copy or export the "
                    "bundle again.", name);
    return EMBEDDING_TOKENIZER_OK;
}

static table *open_or_free(table *t, const char *name, embedding_tokenizer_error *error)
{
    if (open_table(t, name, error) == EMBEDDING_TOKENIZER_OK)
        return t;
    embedding_tokenizer_close(t);
    return NULL;
}

embedding_tokenizer *embedding_tokenizer_open_memory(const void *data, size_t size, int lower_case,
                                                     embedding_tokenizer_error *error)
{
    table *t = data ? calloc(1, sizeof *t) : NULL;
    if (!t) {
        fail(error, data ? EMBEDDING_TOKENIZER_NO_MEMORY : EMBEDDING_TOKENIZER_INVALID_ARGUMENT,
             data ? "No memory for a tokenizer (10 KB)." : "The table is a null pointer; expected its bytes.");
        return NULL;
    }
    t->data = data;
    t->size = size;
    t->lower_case = lower_case != 0;
    return open_or_free(t, "The table in memory", error);
}

#ifndef _WIN32
embedding_tokenizer *embedding_tokenizer_open(const char *path, int lower_case, embedding_tokenizer_error *error)
{
    table *t = path ? calloc(1, sizeof *t) : NULL;
    if (!t) {
        fail(error, path ? EMBEDDING_TOKENIZER_NO_MEMORY : EMBEDDING_TOKENIZER_INVALID_ARGUMENT,
             path ? "No memory for a tokenizer (10 KB)." : "The path is a null pointer; expected a table's path.");
        return NULL;
    }
    struct stat status = {0};
    void *map = MAP_FAILED;
    const char *reason = "not a file";
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status))
        reason = strerror(errno);
    else if (S_ISREG(status.st_mode) && !status.st_size)
        reason = "it is empty";
    else if (S_ISREG(status.st_mode) &&
             (map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0)) == MAP_FAILED)
        reason = strerror(errno);
    if (file >= 0)
        close(file);
    if (map == MAP_FAILED) {
        fail(error, EMBEDDING_TOKENIZER_UNREADABLE, "%.100s cannot be read (%s). Expected a bundle's tokenizer.table.",
             path, reason);
        free(t);
        return NULL;
    }
    t->data = map;
    t->size = (size_t)status.st_size;
    t->mapped = true;
    t->lower_case = lower_case != 0;
    return open_or_free(t, path, error);
}
#endif

embedding_tokenizer_status embedding_tokenizer_verify(const embedding_tokenizer *t, embedding_tokenizer_error *error)
{
    if (!t)
        return fail(error, EMBEDDING_TOKENIZER_INVALID_ARGUMENT, "The tokenizer is a null pointer; open one first.");
    for (int i = 0; i < SECTIONS; i++)
        if (crc32_of(t, t->sections[i].at, (size_t)t->sections[i].bytes) != t->sections[i].place[CRC32])
            return fail(error, EMBEDDING_TOKENIZER_DAMAGED, "The tokenizer table is damaged in its section %s (wrong "
                        "CRC-32). Copy or export the bundle again.", SECTION_NAMES[i]);
    return EMBEDDING_TOKENIZER_OK;
}

void embedding_tokenizer_close(embedding_tokenizer *t)
{
#ifndef _WIN32
    if (t && t->mapped)
        munmap((void *)t->data, t->size);
#endif
    free(t);
}
