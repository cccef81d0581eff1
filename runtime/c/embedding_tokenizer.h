/* Text to token ids from a bundle's tokenizer.table, id for id as the Python runtime gives them.
 *
 * C11, no dependencies; the format is described in TOKENIZER_TABLE.md. Knows nothing of prompts' names, graphs
 * or vectors. A table may be used by several threads at once; each call has memory of its own, whose size
 * depends on max_length and the text, never on the table.
 */
#ifndef EMBEDDING_TOKENIZER_H
#define EMBEDDING_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct embedding_tokenizer embedding_tokenizer;

typedef enum {
    EMBEDDING_TOKENIZER_OK = 0,
    EMBEDDING_TOKENIZER_UNREADABLE = 1,       /* no such file, no permission, cannot be mapped */
    EMBEDDING_TOKENIZER_NOT_A_TABLE = 2,      /* begins with something else */
    EMBEDDING_TOKENIZER_OTHER_VERSION = 3,    /* newer than this reader */
    EMBEDDING_TOKENIZER_DAMAGED = 4,          /* truncated, wrong checksum, contradicts itself */
    EMBEDDING_TOKENIZER_INVALID_UTF8 = 5,     /* prompt or text */
    EMBEDDING_TOKENIZER_INVALID_ARGUMENT = 6, /* a null pointer, max_length below 2, 512 MiB of text */
    EMBEDDING_TOKENIZER_NO_MEMORY = 7
} embedding_tokenizer_status;

/* What went wrong, and a sentence that says what was found, what was expected and what to do. */
typedef struct {
    embedding_tokenizer_status status;
    char message[256];
} embedding_tokenizer_error;

/* Prompt and text, UTF-8, read as one: the manifest's prompts end with the space that belongs between them.
 * A length of 0 may go with a null pointer. */
typedef struct {
    const char *prompt;
    size_t prompt_bytes;
    const char *text;
    size_t text_bytes;
    int allow_special; /* 0: "<eos>" and the like in the text are text. Else they are control tokens; then look
                          for the manifest's `without_row` first: the model has no embedding for those. */
} embedding_tokenizer_input;

/* Map a table and check its prefix, its header and the places of its sections. `lower_case` is the manifest's
 * `tokenizer.do_lower_case`. Returns NULL on an error. The file must stay as it is while it is open. POSIX only:
 * elsewhere map or read the file yourself, and use embedding_tokenizer_open_memory. */
embedding_tokenizer *embedding_tokenizer_open(const char *path, int lower_case, embedding_tokenizer_error *error);

/* The same for a table of `size` bytes in memory, which must outlive the tokenizer. Any alignment will do. */
embedding_tokenizer *embedding_tokenizer_open_memory(const void *data, size_t size, int lower_case,
                                                     embedding_tokenizer_error *error);

/* Compare every section with its checksum: reads the whole file. Do it once, after a copy or a download; reading
 * never leaves the table either way, but a damaged one may give wrong ids. */
embedding_tokenizer_status embedding_tokenizer_verify(const embedding_tokenizer *tokenizer,
                                                      embedding_tokenizer_error *error);

/* Write at most `max_length` ids, <bos> and <eos> included, to `ids`, and their number to `count` (0 on an
 * error). What is too long is cut on the right, keeps <eos>, and sets `truncated` (may be NULL) to 1. */
embedding_tokenizer_status embedding_tokenizer_encode(const embedding_tokenizer *tokenizer,
                                                      const embedding_tokenizer_input *input, int32_t *ids,
                                                      size_t max_length, size_t *count, int *truncated,
                                                      embedding_tokenizer_error *error);

/* NULL will do. */
void embedding_tokenizer_close(embedding_tokenizer *tokenizer);

#ifdef __cplusplus
}
#endif

#endif
