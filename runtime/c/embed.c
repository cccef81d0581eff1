/* Vectors of texts with ONNX Runtime's C API: embed BUNDLE GRAPH DIM PROMPT TEXT...
 *
 * Prints a line for each text: DIM numbers, separated by spaces, of length 1. DIM 0 keeps all components as the
 * graph gives them. Prompts are in the bundle's manifest.json; so are the three constants below. */
#include "embedding_tokenizer.h"

#include <errno.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LENGTH = 2048, /* manifest.json: max_seq_length */
    LOWER_CASE = 0,    /* manifest.json: tokenizer.do_lower_case */
    INCLUDE_PROMPT = 1 /* manifest.json: include_prompt */
};

static const OrtApi *ort;

static void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(1);
}

/* A status other than NULL is an error. */
static void check(OrtStatus *status, const char *what)
{
    if (status)
        fail("%s: %s", what, ort->GetErrorMessage(status));
}

static char *joined(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    if (!path)
        fail("no memory for a path");
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static OrtSession *open_graph(OrtEnv *env, const char *path)
{
    OrtSessionOptions *options;
    OrtSession *session;
    FILE *file = fopen(path, "rb");
    if (!file)
        fail("%s: %s. Give the path of a graph in the bundle, such as onnx/model_int8.onnx", path, strerror(errno));
    fclose(file);
    check(ort->CreateSessionOptions(&options), path);
    check(ort->SetIntraOpNumThreads(options, 1), path);
    /* x86 without VNNI saturates products of 8 bits otherwise. (There ONNX Runtime before 1.30 cannot run them.) */
    check(ort->AddSessionConfigEntry(options, "session.x64quantprecision", "1"), path);
    check(ort->CreateSession(env, path, options, &session), path);
    ort->ReleaseSessionOptions(options);
    return session;
}

/* Ids and a mask, int64 [1, count], to the vector; its components are `*dim`. The mask is 2 for the first
 * `unpooled` ids, which are read but not averaged, and 1 for the others. Free the result. */
static float *run(OrtSession *session, const int32_t *ids, size_t count, size_t unpooled, size_t *dim)
{
    static int64_t values[2][MAX_LENGTH];
    const int64_t shape[2] = {1, (int64_t)count};
    const char *const inputs[2] = {"input_ids", "attention_mask"}, *const outputs[1] = {"sentence_embedding"};
    OrtValue *tensors[2], *output = NULL;
    OrtMemoryInfo *memory;
    OrtTensorTypeAndShapeInfo *info;
    float *data, *vector;
    for (size_t i = 0; i < count; i++) {
        values[0][i] = ids[i];
        values[1][i] = i < unpooled ? 2 : 1;
    }
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "memory");
    for (int i = 0; i < 2; i++)
        check(ort->CreateTensorWithDataAsOrtValue(memory, values[i], count * sizeof values[i][0], shape, 2,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &tensors[i]),
              inputs[i]);
    check(ort->Run(session, NULL, inputs, (const OrtValue *const *)tensors, 2, outputs, 1, &output), "run");
    check(ort->GetTensorTypeAndShape(output, &info), outputs[0]);
    check(ort->GetTensorShapeElementCount(info, dim), outputs[0]);
    check(ort->GetTensorMutableData(output, (void **)&data), outputs[0]);
    vector = malloc(*dim * sizeof *vector);
    if (!vector)
        fail("no memory for %zu components", *dim);
    memcpy(vector, data, *dim * sizeof *vector);
    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseValue(output);
    for (int i = 0; i < 2; i++)
        ort->ReleaseValue(tensors[i]);
    return vector;
}

/* Ids for at most MAX_LENGTH tokens of prompt and text; returns their number. */
static size_t encode(const embedding_tokenizer *tokenizer, const char *prompt, const char *text, int32_t *ids,
                     int number)
{
    embedding_tokenizer_error error;
    embedding_tokenizer_input input = {
        .prompt = prompt, .prompt_bytes = strlen(prompt), .text = text, .text_bytes = strlen(text)};
    size_t found;
    int truncated;
    if (embedding_tokenizer_encode(tokenizer, &input, ids, MAX_LENGTH, &found, &truncated, &error))
        fail("text %d: %s", number, error.message);
    if (truncated)
        fprintf(stderr, "text %d is longer than the %d tokens that the model reads\n", number, MAX_LENGTH);
    return found;
}

/* Print the first `kept` of the components, divided by the length of what is kept. */
static void show(const float *vector, size_t kept, int shortened)
{
    double square = 0;
    for (size_t i = 0; i < kept; i++)
        square += (double)vector[i] * vector[i];
    float length = shortened ? (float)sqrt(square) : 1;
    for (size_t i = 0; i < kept; i++)
        printf("%.9g%c", (double)(vector[i] / length), i + 1 < kept ? ' ' : '\n');
}

int main(int count, char **arguments)
{
    embedding_tokenizer_error error;
    embedding_tokenizer *tokenizer;
    OrtEnv *env;
    if (count < 6)
        fail("expected: embed BUNDLE GRAPH DIM PROMPT TEXT...");
    char *end, *table = joined(arguments[1], "tokenizer.table"), *graph = joined(arguments[1], arguments[2]);
    unsigned long dim = strtoul(arguments[3], &end, 10);
    if (end == arguments[3] || *end || arguments[3][0] == '-')
        fail("DIM is %s; expected a number, such as 256, or 0 for all components", arguments[3]);
    if (!(tokenizer = embedding_tokenizer_open(table, LOWER_CASE, &error)))
        fail("%s", error.message);
    if (!(ort = OrtGetApiBase()->GetApi(ORT_API_VERSION)))
        fail("ONNX Runtime %s is older than the header %d that this was built with", OrtGetApiBase()->GetVersionString(),
             ORT_API_VERSION);
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "embed", &env), "ONNX Runtime");
    OrtSession *session = open_graph(env, graph);
    static int32_t ids[MAX_LENGTH];
    const char *prompt = arguments[4];
    /* Of a prompt that is not averaged, all but its <eos>. */
    size_t unpooled = INCLUDE_PROMPT || !*prompt ? 0 : encode(tokenizer, prompt, "", ids, 0) - 1;
    for (int i = 5; i < count; i++) {
        size_t size, found = encode(tokenizer, prompt, arguments[i], ids, i - 4);
        float *vector = run(session, ids, found, unpooled, &size);
        if (dim > size)
            fail("DIM is %lu, and the graph's vectors have %zu components", dim, size);
        show(vector, dim ? dim : size, dim != 0);
        free(vector);
    }
    if (fflush(stdout) || ferror(stdout))
        fail("standard output: %s", strerror(errno));
    ort->ReleaseSession(session);
    ort->ReleaseEnv(env);
    embedding_tokenizer_close(tokenizer);
    free(graph);
    free(table);
    return 0;
}
