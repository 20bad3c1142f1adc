// Which instruction sets this binary holds and this machine runs.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "program.h"

#define BINADE_DECLARE(isa)                                                                        \
  namespace isa {                                                                                  \
  void runProgram(const Program& program, void* const* bases, Pool* pool, Fault* fault);           \
  double runBurst(PeakKind kind, int64_t repeats, const void* memory, int64_t byteLength);         \
  }

namespace binade {

BINADE_DECLARE(portable)

#if defined(__x86_64__)

BINADE_DECLARE(avx2)
BINADE_DECLARE(avx512)
BINADE_DECLARE(avx512bf16)

static bool hasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}

// __builtin_cpu_supports also asks whether the operating system saves the wide registers.

static bool hasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && hasF16c(); }

static bool hasAvx512() {
  return hasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

struct InstructionSets {
  InstructionSet list[4];
  int count;
};

static InstructionSets detect() {
  InstructionSets sets = {};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool dotProducts = hasAvx512() && __builtin_cpu_supports("avx512bf16");
  // Intel's cores issue one vdpbf16ps every other cycle and two float32 multiply-adds in each: bfloat16 runs at half the
  // rate of float32 there (Sapphire Rapids: 108 against 217 GFLOP/s), on AMD's Zen 5 at twice. Widening while packing is exact.
  const bool preferred = dotProducts && !__builtin_cpu_is("intel");
  if (preferred) sets.list[sets.count++] = {"avx512bf16", avx512bf16::runProgram, avx512bf16::runBurst};
  if (hasAvx512()) sets.list[sets.count++] = {"avx512", avx512::runProgram, avx512::runBurst};
  if (dotProducts && !preferred) sets.list[sets.count++] = {"avx512bf16", avx512bf16::runProgram, avx512bf16::runBurst};
  if (hasAvx2()) sets.list[sets.count++] = {"avx2", avx2::runProgram, avx2::runBurst};
#endif
  sets.list[sets.count++] = {"portable", portable::runProgram, portable::runBurst};
  return sets;
}

static const InstructionSets& instructionSets() {
  static const InstructionSets sets = detect();
  return sets;
}

int supportedIsaCount() { return instructionSets().count; }
const InstructionSet& supportedIsa(int index) { return instructionSets().list[index]; }

}  // namespace binade
