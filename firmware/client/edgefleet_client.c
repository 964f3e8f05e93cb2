/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, F_GET_SEALS */
#include "edgefleet_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this client is for little-endian processors"
#endif

enum {
  INFER = 1, FEEDBACK = 2, INFER_MODEL = 4, DECLARE = 5, SHARE = 6, RING = 7, ANSWER = 129, ANSWER_RING = 130,
  VERSION = 1, MAX_TENSORS = 64, ANSWER_HEAD = 28, RETRY_MS = 10, SECOND_LOOK_MS = 2
};
static const uint32_t FRAME_LIMIT = 64u << 20;

/* Places in the shared memory: see device_agent/shared_memory.py. */
enum { REQUESTED = 0, CLIENT_SLEEPS = 1, ANSWERED = 16, REQUEST_SIZE = 32, ANSWER_SIZE = 33, HEAD_BYTES = 256 };
static const uint32_t BY_SOCKET = 0xFFFFFFFFu;

typedef struct {
  unsigned char *bytes;
  size_t size, room;
} buffer;

struct ef_client {
  char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
  int timeout_ms;
  int fd;
  buffer request, answer;
  float *values; /* the outputs of the last answer, aligned */
  size_t values_room;
  char *declaration;
  uint32_t share_request, share_answer;
  unsigned char *memory;
  size_t memory_bytes;
  uint32_t request_room, answer_room; /* as they were when the memory was mapped: its head may change */
  uint32_t number;
};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* -------------------------------------------------------------------- buffers */

static int reserve(buffer *to, size_t size) {
  if (size > to->room) {
    unsigned char *bytes = realloc(to->bytes, size);
    if (bytes == NULL) return -1;
    to->bytes = bytes;
    to->room = size;
  }
  return 0;
}

static int put(buffer *to, const void *bytes, size_t size) {
  if (reserve(to, to->size + size) < 0) return -1;
  if (size > 0) memcpy(to->bytes + to->size, bytes, size);
  to->size += size;
  return 0;
}

static int put_u8(buffer *to, unsigned value) { unsigned char byte = (unsigned char)value; return put(to, &byte, 1); }
static int put_u16(buffer *to, size_t value) { uint16_t word = (uint16_t)value; return put(to, &word, sizeof word); }
static int put_u32(buffer *to, uint32_t value) { return put(to, &value, sizeof value); }
static int put_u64(buffer *to, uint64_t value) { return put(to, &value, sizeof value); }

/* Start a frame: its length is known at the end. */
static int begin(buffer *to, unsigned kind, size_t word) {
  to->size = 0;
  return put_u32(to, 0) || put_u8(to, kind) || put_u8(to, VERSION) || put_u16(to, word);
}

static void end_frame(buffer *frame) {
  uint32_t length = (uint32_t)(frame->size - 4);
  memcpy(frame->bytes, &length, sizeof length);
}

/* -------------------------------------------------------------------- the socket */

static int wait_for(int fd, short events, int64_t until_ms) {
  struct pollfd one = {.fd = fd, .events = events, .revents = 0};
  int64_t left = until_ms - now_ms();
  int ready = poll(&one, 1, left > 0 ? (int)left : 0);
  if (ready < 0) return errno == EINTR ? 0 : -1;
  return ready == 0 && now_ms() >= until_ms ? -1 : 0;
}

static int send_all(int fd, const unsigned char *bytes, size_t size, int64_t until_ms) {
  while (size > 0) {
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes += sent;
      size -= (size_t)sent;
    } else if (errno == EAGAIN || errno == EINTR) {
      if (wait_for(fd, POLLOUT, until_ms) < 0) return -1;
    } else {
      return -1;
    }
  }
  return 0;
}

/* Keep the first descriptor that comes along, and close all others. */
static void keep_one(struct msghdr *message, int *passed) {
  for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL; head = CMSG_NXTHDR(message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= head->cmsg_len; at += sizeof(int)) {
      int one;
      memcpy(&one, (unsigned char *)head + at, sizeof one);
      if (*passed < 0) *passed = one;
      else close(one);
    }
  }
}

/* Receive exactly `size` bytes in time, and a descriptor if one comes along and `passed` asks for it. */
static int receive(int fd, void *bytes, size_t size, int64_t until_ms, int *passed) {
  unsigned char *at = bytes;
  while (size > 0) {
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec part = {.iov_base = at, .iov_len = size};
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (passed != NULL) {
      message.msg_control = control.bytes;
      message.msg_controllen = sizeof control.bytes;
    }
    if (now_ms() > until_ms) return -1; /* also where something comes without end */
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got >= 0 && passed != NULL) keep_one(&message, passed);
    if (got == 0) return -1;
    if (got < 0) {
      if (errno != EAGAIN && errno != EINTR) return -1;
      if (wait_for(fd, POLLIN, until_ms) < 0) return -1;
      continue;
    }
    at += got;
    size -= (size_t)got;
  }
  return 0;
}

static void disconnect(ef_client *client) {
  if (client->memory != NULL) munmap(client->memory, client->memory_bytes);
  client->memory = NULL;
  if (client->fd >= 0) close(client->fd);
  client->fd = -1;
}

static int connect_socket(ef_client *client, int64_t until_ms) {
  struct sockaddr_un address;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, client->path, sizeof address.sun_path);
  client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (client->fd < 0) return -1;
  while (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0) {
    if (errno != EAGAIN && errno != EINTR) return -1; /* EAGAIN: others wait for the agent too */
    if (now_ms() >= until_ms) return -1;
    poll(NULL, 0, RETRY_MS);
  }
  return 0;
}

/* Receive one answer's body; rings for answers that were seen before they rang are dropped. */
static int receive_answer(ef_client *client, int64_t until_ms, int *passed) {
  for (;;) {
    uint32_t length;
    if (receive(client->fd, &length, sizeof length, until_ms, passed) < 0) return -1;
    if (length < 4 || length > FRAME_LIMIT || reserve(&client->answer, length) < 0) return -1;
    client->answer.size = length;
    if (receive(client->fd, client->answer.bytes, length, until_ms, NULL) < 0) return -1;
    if (client->answer.bytes[0] != ANSWER_RING) return 0;
  }
}

/* -------------------------------------------------------------------- shared memory */

static uint32_t word(const ef_client *client, int place) {
  return __atomic_load_n((const uint32_t *)(const void *)client->memory + place, __ATOMIC_ACQUIRE);
}

static void set_word(ef_client *client, int place, uint32_t value) {
  __atomic_store_n((uint32_t *)(void *)client->memory + place, value, __ATOMIC_SEQ_CST);
}

/* Map the memory file behind a descriptor, if it has all that its head says and cannot be shrunk. */
static void map_memory(ef_client *client, int passed) {
  uint32_t head[HEAD_BYTES / 4];
  struct stat facts;
  int seals = fcntl(passed, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(passed, &facts) < 0) return;
  if (pread(passed, head, sizeof head, 0) != (ssize_t)sizeof head) return;
  uint32_t request_room = head[REQUEST_SIZE], answer_room = head[ANSWER_SIZE];
  if (request_room < 4 || answer_room < 4 || request_room > FRAME_LIMIT || answer_room > FRAME_LIMIT) return;
  size_t size = (size_t)HEAD_BYTES + request_room + answer_room;
  if (facts.st_size < (off_t)size) return;
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, passed, 0);
  if (memory == MAP_FAILED) return;
  client->memory = memory;
  client->memory_bytes = size;
  client->request_room = request_room;
  client->answer_room = answer_room;
}

/* Ask for shared memory; without it the socket has to do. -1: the connection broke. */
static int open_memory(ef_client *client, int64_t until_ms) {
  int passed = -1;
  unsigned char frame[] = {12, 0, 0, 0, SHARE, VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  memcpy(frame + 8, &client->share_request, 4);
  memcpy(frame + 12, &client->share_answer, 4);
  if (send_all(client->fd, frame, sizeof frame, until_ms) < 0) return -1;
  if (receive_answer(client, until_ms, &passed) < 0) {
    if (passed >= 0) close(passed);
    return -1;
  }
  if (passed < 0) {
    client->share_request = 0;
    return client->answer.size > 2 && client->answer.bytes[2] == EF_BAD_INPUT ? -1 : 0;
  }
  map_memory(client, passed);
  close(passed);
  client->number = 0;
  return 0;
}

/* Wait until the worker has answered: it rings when this side sleeps. The word and the look may cross: look again. */
static int wait_for_answer(ef_client *client, int64_t until_ms) {
  int64_t patience_ms = now_ms() + SECOND_LOOK_MS;
  int result = 0;
  set_word(client, CLIENT_SLEEPS, 1);
  while (word(client, ANSWERED) != client->number) {
    unsigned char ring[8];
    if (now_ms() >= until_ms) {
      result = -1;
      break;
    }
    struct pollfd one = {.fd = client->fd, .events = POLLIN, .revents = 0};
    int64_t left = (patience_ms < until_ms ? patience_ms : until_ms) - now_ms();
    int ready = poll(&one, 1, left > 0 ? (int)left : 0);
    if (ready <= 0) {
      if (ready == 0) patience_ms = until_ms;
      continue;
    }
    if (word(client, ANSWERED) == client->number) break;
    if (receive(client->fd, ring, sizeof ring, until_ms, NULL) < 0 || ring[4] != ANSWER_RING) {
      result = -1; /* the worker ended, or refused what it read */
      break;
    }
  }
  set_word(client, CLIENT_SLEEPS, 0);
  return result;
}

static int exchange_by_memory(ef_client *client, int64_t until_ms) {
  static const unsigned char ring[] = {4, 0, 0, 0, RING, VERSION, 0, 0};
  uint32_t length;
  memcpy(client->memory + HEAD_BYTES, client->request.bytes, client->request.size); /* length and body */
  client->number++;
  set_word(client, REQUESTED, client->number);
  if (send_all(client->fd, ring, sizeof ring, until_ms) < 0 || wait_for_answer(client, until_ms) < 0) return -1;
  unsigned char *area = client->memory + HEAD_BYTES + client->request_room;
  memcpy(&length, area, sizeof length);
  if (length == BY_SOCKET) return receive_answer(client, until_ms, NULL);
  if (length > client->answer_room - 4 || reserve(&client->answer, length) < 0) return -1;
  memcpy(client->answer.bytes, area + 4, length);
  client->answer.size = length;
  return 0;
}

/* -------------------------------------------------------------------- answers */

static ef_status refuse(ef_answer *answer, ef_status status, const char *why) {
  memset(answer, 0, sizeof *answer);
  answer->status = status;
  answer->top_class = -1;
  strncpy(answer->detail, why, EF_TEXT_BYTES - 1);
  return status;
}

static void copy_text(char *to, const unsigned char *from, size_t size) {
  size_t kept = size < EF_TEXT_BYTES - 1 ? size : EF_TEXT_BYTES - 1;
  while (kept > 0 && kept < size && (from[kept] & 0xC0) == 0x80) kept--; /* not within a character */
  memcpy(to, from, kept);
  to[kept] = '\0';
}

/* Read one output's head; return how many bytes head and values take, 0 where that is more than there is. */
static size_t read_output(const unsigned char *at, size_t left, ef_output *output) {
  size_t size;
  uint64_t count = 1;
  if (left < 4 || at[0] != EF_FLOAT32 || at[1] > EF_MAX_RANK || left < 4 + 4u * at[1]) return 0;
  output->rank = at[1];
  for (unsigned axis = 0; axis < output->rank; axis++) {
    memcpy(&output->shape[axis], at + 4 + 4 * axis, 4);
    if (output->shape[axis] > FRAME_LIMIT / 4 || (count *= output->shape[axis]) > FRAME_LIMIT / 4) return 0;
  }
  output->count = (size_t)count;
  size = 4 + 4u * output->rank;
  return left - size < 4 * output->count ? 0 : size + 4 * output->count;
}

static int read_answer(ef_client *client, ef_answer *answer) {
  const unsigned char *body = client->answer.bytes;
  size_t size = client->answer.size, at = ANSWER_HEAD, used = 0;
  uint16_t sizes[4]; /* release, label, detail, tensors */
  memset(answer, 0, sizeof *answer);
  if (size < ANSWER_HEAD || body[0] != ANSWER || body[1] != VERSION) return -1;
  memcpy(sizes, body + 20, sizeof sizes);
  if (size - at < (size_t)sizes[0] + sizes[1] + sizes[2] || sizes[3] > MAX_TENSORS) return -1;
  answer->status = (ef_status)body[2];
  memcpy(&answer->request_id, body + 4, 8);
  memcpy(&answer->top_class, body + 12, 4);
  memcpy(&answer->confidence, body + 16, 4);
  copy_text(answer->release, body + at, sizes[0]);
  copy_text(answer->label, body + at + sizes[0], sizes[1]);
  copy_text(answer->detail, body + at + sizes[0] + sizes[1], sizes[2]);
  at += (size_t)sizes[0] + sizes[1] + sizes[2];
  if (client->values_room < size) {
    float *values = realloc(client->values, size);
    if (values == NULL) return -1;
    client->values = values;
    client->values_room = size;
  }
  for (unsigned place = 0; place < sizes[3] && place < EF_MAX_OUTPUTS; place++) {
    ef_output *output = &answer->output[place];
    size_t taken = read_output(body + at, size - at, output);
    if (taken == 0) return -1;
    memcpy(client->values + used, body + at + taken - 4 * output->count, 4 * output->count);
    output->values = client->values + used;
    used += output->count;
    at += taken;
    answer->outputs++;
  }
  return 0;
}

/* -------------------------------------------------------------------- calls */

static int introduce(ef_client *client, int64_t until_ms) {
  if (connect_socket(client, until_ms) < 0) return -1;
  if (client->declaration != NULL) {
    buffer said = {NULL, 0, 0};
    int failed = begin(&said, DECLARE, 0) || put(&said, client->declaration, strlen(client->declaration));
    if (!failed) {
      end_frame(&said);
      failed = send_all(client->fd, said.bytes, said.size, until_ms) || receive_answer(client, until_ms, NULL);
    }
    free(said.bytes);
    if (failed) return -1;
  }
  return client->share_request > 0 ? open_memory(client, until_ms) : 0;
}

static int exchange(ef_client *client, int by_memory, int64_t until_ms) {
  if (client->fd < 0 && introduce(client, until_ms) < 0) return -1;
  if (by_memory && client->memory != NULL && client->request.size <= client->request_room)
    return exchange_by_memory(client, until_ms);
  if (send_all(client->fd, client->request.bytes, client->request.size, until_ms) < 0) return -1;
  return receive_answer(client, until_ms, NULL);
}

static ef_status call(ef_client *client, int by_memory, ef_answer *answer) {
  int64_t until_ms = now_ms() + client->timeout_ms;
  if (client->path[0] == '\0') return refuse(answer, EF_WRONG_USE, "the socket's path is empty or too long");
  int attempts = client->fd < 0 ? 2 : 3; /* a kept connection may be one that a restart broke */
  if (client->request.size - 4 > FRAME_LIMIT) return refuse(answer, EF_WRONG_USE, "the request is over 64 MiB");
  while (attempts-- > 0) {
    if (exchange(client, by_memory, until_ms) == 0 && read_answer(client, answer) == 0) return answer->status;
    disconnect(client);
    if (now_ms() >= until_ms) break;
  }
  return refuse(answer, EF_UNREACHABLE, "the agent does not answer; start it with: edgefleet-agent run --data DIR");
}

ef_client *ef_open(const char *path, int timeout_ms) {
  ef_client *client = calloc(1, sizeof *client);
  if (client == NULL) return NULL;
  client->fd = -1;
  client->timeout_ms = timeout_ms > 0 ? timeout_ms : 10000;
  if (strlen(path) < sizeof client->path) strcpy(client->path, path);
  return client;
}

void ef_close(ef_client *client) {
  if (client == NULL) return;
  disconnect(client);
  free(client->request.bytes);
  free(client->answer.bytes);
  free(client->values);
  free(client->declaration);
  free(client);
}

ef_status ef_share(ef_client *client, uint32_t request_bytes, uint32_t answer_bytes) {
  disconnect(client);
  client->share_request = request_bytes;
  client->share_answer = answer_bytes > 0 ? answer_bytes : 65536;
  return EF_OK;
}

ef_status ef_declare(ef_client *client, const char *json, ef_answer *answer) {
  char *copy = malloc(strlen(json) + 1);
  if (copy == NULL || begin(&client->request, DECLARE, 0) || put(&client->request, json, strlen(json))) {
    free(copy);
    return refuse(answer, EF_WRONG_USE, "there is no memory");
  }
  strcpy(copy, json);
  free(client->declaration);
  client->declaration = copy;
  end_frame(&client->request);
  return call(client, 0, answer);
}

static int put_tensor(buffer *to, const ef_tensor *tensor) {
  static const unsigned char sizes[] = {4, 2, 1, 1, 2, 4, 8, 1};
  uint64_t size;
  if ((unsigned)tensor->dtype >= sizeof sizes || tensor->rank > EF_MAX_RANK) return -1;
  size = sizes[tensor->dtype];
  for (unsigned axis = 0; axis < tensor->rank; axis++) {
    if (tensor->shape[axis] > FRAME_LIMIT || (size *= tensor->shape[axis]) > FRAME_LIMIT) return -1;
  }
  return put_u8(to, (unsigned)tensor->dtype) || put_u8(to, tensor->rank) || put_u16(to, 0) ||
         put(to, tensor->shape, 4 * (size_t)tensor->rank) || put(to, tensor->values, (size_t)size);
}

ef_status ef_infer(ef_client *client, const char *model, const ef_tensor *inputs, unsigned count, int deadline_ms,
                   ef_answer *answer) {
  buffer *to = &client->request;
  uint64_t deadline_us = deadline_ms > 0 ? (uint64_t)(now_ms() + deadline_ms) * 1000u : 0;
  size_t name = model != NULL ? strlen(model) : 0;
  int failed = count > MAX_TENSORS || name > UINT16_MAX;
  failed = failed || begin(to, name > 0 ? INFER_MODEL : INFER, count) || put_u64(to, deadline_us);
  if (name > 0) failed = failed || put_u16(to, name) || put(to, model, name);
  for (unsigned place = 0; !failed && place < count; place++) failed = put_tensor(to, &inputs[place]);
  if (failed) return refuse(answer, EF_WRONG_USE, "an input has another dtype or rank than models take, or is too large");
  end_frame(to);
  return call(client, 1, answer);
}

static int put_feedback(buffer *to, uint64_t request_id, const char *label) {
  size_t size = strlen(label);
  return size > UINT16_MAX || begin(to, FEEDBACK, size) || put_u64(to, request_id) || put(to, label, size);
}

ef_status ef_feedback(ef_client *client, uint64_t request_id, const char *label, ef_answer *answer) {
  if (put_feedback(&client->request, request_id, label))
    return refuse(answer, EF_WRONG_USE, "a label has at most 65535 bytes");
  end_frame(&client->request);
  return call(client, 0, answer);
}

ef_status ef_feedback_late(ef_client *client, uint64_t request_id, const char *label, const char *release,
                           int32_t predicted, ef_answer *answer) {
  buffer late = {NULL, 0, 0}; /* written first: the texts may be those in `answer` */
  size_t size = strlen(release);
  int failed = size > UINT16_MAX || put_feedback(&late, request_id, label) || put_u32(&late, (uint32_t)predicted) ||
               put_u16(&late, size) || put(&late, release, size);
  ef_status status = failed ? EF_WRONG_USE : ef_feedback(client, request_id, label, answer);
  if (status == EF_UNKNOWN_REQUEST && size > 0) {
    buffer first = client->request;
    end_frame(&late);
    client->request = late;
    late = first;
    status = call(client, 0, answer);
  } else {
    size = 0;
  }
  free(late.bytes);
  if (failed) return refuse(answer, EF_WRONG_USE, "a label and a release have at most 65535 bytes each");
  if (size == 0 || status != EF_BAD_INPUT || answer->release[0] != '\0') return status;
  disconnect(client); /* an agent that cannot read this */
  return refuse(answer, EF_UNKNOWN_REQUEST, "the request is not known any more, and this agent takes no late labels");
}
