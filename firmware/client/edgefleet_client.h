/* SPDX-License-Identifier: Apache-2.0 */
/* Asking the models of this device from C: one connection to the EdgeFleet agent, calls one after another.
 *
 * C99 and POSIX, for GCC and Clang on little-endian Linux. The protocol is documented in
 * device_agent/inference_protocol.py and device_agent/shared_memory.py. A client is not for two threads at once.
 */
#ifndef EDGEFLEET_CLIENT_H
#define EDGEFLEET_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EF_MAX_RANK = 8, EF_MAX_OUTPUTS = 16, EF_TEXT_BYTES = 256 };

typedef enum {
  EF_FLOAT32, EF_FLOAT16, EF_INT8, EF_UINT8, EF_INT16, EF_INT32, EF_INT64, EF_BOOL
} ef_dtype;

/* What the device's model answered; EF_UNREACHABLE and EF_WRONG_USE are the client's own. */
typedef enum {
  EF_OK = 0,
  EF_NO_MODEL = 1,
  EF_BAD_INPUT = 2,
  EF_FAILED = 3,
  EF_DEADLINE = 4,
  EF_UNKNOWN_REQUEST = 5,
  EF_BUSY = 6,
  EF_INCOMPATIBLE = 7,
  EF_UNREACHABLE = -1,
  EF_WRONG_USE = -2
} ef_status;

/* One raw input, before preprocessing: values in C order. */
typedef struct {
  ef_dtype dtype;
  unsigned rank;
  uint32_t shape[EF_MAX_RANK];
  const void *values;
} ef_tensor;

/* One output: de-quantized values, which stay where they are until the client's next call. */
typedef struct {
  unsigned rank;
  uint32_t shape[EF_MAX_RANK];
  size_t count;
  const float *values;
} ef_output;

typedef struct {
  ef_status status;
  uint64_t request_id; /* for ef_feedback() */
  int32_t top_class;   /* -1 without an answer */
  float confidence;
  char release[EF_TEXT_BYTES]; /* name and version of the model that answered */
  char label[EF_TEXT_BYTES];
  char detail[EF_TEXT_BYTES]; /* why there is no answer */
  unsigned outputs;
  ef_output output[EF_MAX_OUTPUTS];
} ef_answer;

typedef struct ef_client ef_client;

/* Make a client of the agent's socket; `timeout_ms` bounds each call, with the wait for a worker that restarts.
 * The connection is made by the first call, and made again where a restart broke it. NULL: no memory. */
ef_client *ef_open(const char *path, int timeout_ms);

/* End the connection. NULL is allowed. */
void ef_close(ef_client *client);

/* Send inputs and answers of up to so many bytes through memory that both sides see (0, 0: through the socket).
 * Where the worker does not offer that, the socket does it. */
ef_status ef_share(ef_client *client, uint32_t request_bytes, uint32_t answer_bytes);

/* Say for which interface this application was built: a JSON document
 * {"application": "camera", "model": "wake-word", "interface": {"labels": ["yes", "no"], "inputs": [...]}}.
 * It is said again on each new connection; EF_INCOMPATIBLE names the differences in `detail`. */
ef_status ef_declare(ef_client *client, const char *json, ef_answer *answer);

/* Ask a model (NULL: the only one) for one inference. After `deadline_ms` (0: none) the answer is of no use. */
ef_status ef_infer(ef_client *client, const char *model, const ef_tensor *inputs, unsigned count, int deadline_ms,
                   ef_answer *answer);

/* Say what an earlier answer should have been: a label's name or a class number. */
ef_status ef_feedback(ef_client *client, uint64_t request_id, const char *label, ef_answer *answer);

/* The same, however late: `release` and `predicted` are the `release` and `top_class` that came with that answer.
 * An agent that knows no late labels says EF_UNKNOWN_REQUEST. */
ef_status ef_feedback_late(ef_client *client, uint64_t request_id, const char *label, const char *release,
                           int32_t predicted, ef_answer *answer);

#ifdef __cplusplus
}
#endif

#endif
