/* SPDX-License-Identifier: Apache-2.0 */
/* Drives the C client as a test says: PATH SHARE(0|1) PICTURES, an answer a line; then feedback and misuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgefleet_client.h"

static void print(const ef_answer *answer) {
  printf("%d|%d|%s|%.4f|%s|%s|", (int)answer->status, (int)answer->top_class, answer->label,
         (double)answer->confidence, answer->release, answer->detail);
  for (size_t place = 0; answer->outputs > 0 && place < answer->output[0].count; place++)
    printf("%s%.5f", place > 0 ? "," : "", (double)answer->output[0].values[place]);
  printf("\n");
  fflush(stdout);
}

int main(int count, char **arguments) {
  static float picture[64];
  static ef_answer answer;
  const ef_tensor input = {EF_FLOAT32, 4, {1, 8, 8, 1, 0, 0, 0, 0}, picture};
  const ef_tensor wrong = {EF_FLOAT32, 1, {3, 0, 0, 0, 0, 0, 0, 0}, picture};
  const ef_tensor misused = {(ef_dtype)9, 1, {3, 0, 0, 0, 0, 0, 0, 0}, picture};
  ef_client *client;
  FILE *pictures;
  if (count != 4 || (pictures = fopen(arguments[3], "rb")) == NULL) return 2;
  client = ef_open(arguments[1], 120000);
  if (client == NULL) return 2;
  if (strcmp(arguments[2], "1") == 0) ef_share(client, 65536, 65536);
  ef_declare(client, "{\"application\": \"c\", \"interface\": {\"labels\": [\"x\"]}, \"model\": \"another\"}", &answer);
  print(&answer);
  while (fread(picture, sizeof picture, 1, pictures) == 1) {
    uint64_t number;
    ef_answer given;
    ef_infer(client, NULL, &input, 1, 120000, &answer);
    given = answer;
    print(&answer);
    number = answer.request_id;
    ef_feedback(client, number, answer.label, &answer);
    print(&answer);
    answer = given; /* whose own texts may be given back */
    ef_feedback_late(client, number + 1000, "3", answer.release, 4, &answer);
    print(&answer);
    ef_feedback_late(client, number + 1000, "3", "digits 1.0.0", 4, &answer);
    print(&answer);
    ef_feedback_late(client, number + 2000, "3", "digits 1.0.0", 10, &answer);
    print(&answer);
    if (getchar() == EOF) break; /* the test has done what it wanted before the next one */
  }
  ef_infer(client, "digits", &wrong, 1, 0, &answer);
  print(&answer);
  ef_infer(client, NULL, &misused, 1, 0, &answer);
  print(&answer);
  ef_infer(client, "no-such", &input, 1, 0, &answer);
  print(&answer);
  fclose(pictures);
  ef_close(client);
  return 0;
}
