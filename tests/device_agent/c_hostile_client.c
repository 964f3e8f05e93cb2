/* SPDX-License-Identifier: Apache-2.0 */
/* Asks whatever listens at PATH: PATH SHARE(bytes) TIMEOUT_MS CALLS INPUT_BYTES; a status a line, then the open files. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "edgefleet_client.h"

static unsigned open_files(void) {
  unsigned count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (folder != NULL && readdir(folder) != NULL) count++;
  if (folder != NULL) closedir(folder);
  return count;
}

int main(int count, char **arguments) {
  static ef_answer answer;
  ef_tensor input = {EF_UINT8, 1, {0, 0, 0, 0, 0, 0, 0, 0}, NULL};
  double sum = 0.0;
  ef_client *client;
  if (count != 6 || (client = ef_open(arguments[1], atoi(arguments[3]))) == NULL) return 2;
  input.shape[0] = (uint32_t)atoi(arguments[5]);
  input.values = calloc(1, input.shape[0] + 1);
  ef_share(client, (uint32_t)atoi(arguments[2]), 4096);
  for (int call = 0; call < atoi(arguments[4]); call++) {
    ef_infer(client, NULL, &input, 1, 0, &answer);
    for (unsigned place = 0; place < answer.outputs; place++) /* all that is said to be there can be read */
      for (size_t at = 0; at < answer.output[place].count; at++) sum += (double)answer.output[place].values[at];
    printf("%d|%s|%s|%s\n", (int)answer.status, answer.release, answer.label, answer.detail);
  }
  printf("%u\n", open_files());
  ef_close(client);
  free((void *)(uintptr_t)input.values);
  return sum == 0.5 ? 3 : 0;
}
