/* Encodes cases from standard input: encode_cases TABLE LOWER_CASE < cases > results.
 *
 * A case is 4 numbers of 32 bits (bytes of the prompt, bytes of the text, max_length, allow_special), then both;
 * a result is the status, `truncated`, the number of ids, and the ids. A table that cannot be opened ends the
 * program with status 1 and its error on standard output. */
#include "embedding_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Exactly as long as the text, so that a sanitizer sees a read behind it. */
static char *read_text(uint32_t size)
{
    char *text = malloc(size ? size : 1);
    if (!text || fread(text, 1, size, stdin) != size)
        exit(2);
    return text;
}

int main(int count, char **arguments)
{
    embedding_tokenizer_error error;
    if (count != 3)
        return 2;
    double started = now();
    embedding_tokenizer *tokenizer = embedding_tokenizer_open(arguments[1], atoi(arguments[2]), &error);
    double opened = now() - started;
    if (!tokenizer || embedding_tokenizer_verify(tokenizer, &error)) {
        printf("%d %s\n", (int)error.status, error.message);
        embedding_tokenizer_close(tokenizer);
        return 1;
    }
    double spent = 0;
    size_t tokens = 0;
    for (uint32_t number[4]; fread(number, sizeof number, 1, stdin) == 1;) {
        char *prompt = read_text(number[0]), *text = read_text(number[1]);
        embedding_tokenizer_input input = {prompt, number[0], text, number[1], (int)number[3]};
        int32_t *ids = malloc(number[2] * sizeof *ids), result[3] = {0, 0, 0};
        size_t found;
        started = now();
        result[0] = (int32_t)embedding_tokenizer_encode(tokenizer, &input, ids, number[2], &found, &result[1], &error);
        spent += now() - started;
        result[2] = (int32_t)found;
        tokens += found;
        fwrite(result, sizeof result, 1, stdout);
        fwrite(ids, sizeof *ids, found, stdout);
        free(ids);
        free(text);
        free(prompt);
    }
    fprintf(stderr, "%.6f %zu %.6f\n", opened, tokens, spent);
    embedding_tokenizer_close(tokenizer);
    return 0;
}
