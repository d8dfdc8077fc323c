// A plugin of qemu's code generator: how often each instruction of the guest was executed, by mnemonic.
//
//   gcc -O2 -shared -fPIC count.c -o count.so      COUNT_OUT=file qemu-aarch64 -plugin ./count.so program
//
// Writes "mnemonic count" lines. The interface is version 1 (qemu 4.2 to 8.x), declared here since Debian ships no
// qemu-plugin.h. For programs of one thread: the counters are not atomic.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
char* qemu_plugin_insn_disas(const struct qemu_plugin_insn*);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn*, int operation, void* counter, uint64_t add);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void*), void*);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

enum { kMost = 4096 };
static struct {
  char mnemonic[24];
  uint64_t count;
} counters[kMost];
static size_t used;

static uint64_t* counter(const char* mnemonic) {
  size_t i = 0;
  while (i < used && strcmp(counters[i].mnemonic, mnemonic)) ++i;
  if (i == kMost) abort();
  if (i == used) snprintf(counters[used++].mnemonic, sizeof counters->mnemonic, "%s", mnemonic);
  return &counters[i].count;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
    struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(block, i);
    char mnemonic[24] = "?";
    char* text = qemu_plugin_insn_disas(instruction);
    if (text) sscanf(text, "%23s", mnemonic);
    free(text);
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, 0, counter(mnemonic), 1);
  }
}

static void at_exit(qemu_plugin_id_t id, void* unused) {
  (void)id, (void)unused;
  const char* path = getenv("COUNT_OUT");
  FILE* out = path ? fopen(path, "w") : stderr;
  if (!out) return;
  for (size_t i = 0; i < used; ++i)
    fprintf(out, "%s %llu\n", counters[i].mnemonic, (unsigned long long)counters[i].count);
  fflush(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int count, char** arguments) {
  (void)info, (void)count, (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
