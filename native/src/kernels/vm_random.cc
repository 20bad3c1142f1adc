// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
// 3", SC 2011), so that an element's draw depends on its position alone.
#include "vm.h"

namespace binade {
namespace BINADE_ISA {

struct Key {
  uint32_t words[4];
};

/// words[w][i] = word w of the block with counter (first + i, key.words[2], key.words[3] ^ stream), for i < count.
static void philoxBlocks(const Key& key, uint32_t stream, const uint64_t* counters, int count,
                         uint32_t (*words)[kBlockLanes]) {
  const uint32_t counter2 = key.words[2], counter3 = key.words[3] ^ stream;
  for (int i = 0; i < count; ++i) {
    uint32_t x0 = static_cast<uint32_t>(counters[i]), x1 = static_cast<uint32_t>(counters[i] >> 32);
    uint32_t x2 = counter2, x3 = counter3, k0 = key.words[0], k1 = key.words[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * x0;
      const uint64_t product1 = uint64_t{0xCD9E8D57u} * x2;
      x0 = static_cast<uint32_t>(product1 >> 32) ^ x1 ^ k0;
      x1 = static_cast<uint32_t>(product1);
      x2 = static_cast<uint32_t>(product0 >> 32) ^ x3 ^ k1;
      x3 = static_cast<uint32_t>(product0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words[0][i] = x0;
    words[1][i] = x1;
    words[2][i] = x2;
    words[3][i] = x3;
  }
}

static inline float uniformOf(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

void drawUniform(const void* keyWords, uint32_t stream, int64_t position, int64_t stride, float* lanes, int64_t count) {
  alignas(64) uint64_t counters[kBlockLanes];
  alignas(64) uint32_t words[4][kBlockLanes];
  Key key;
  __builtin_memcpy(&key, keyWords, sizeof key);
  if (stride == 1) {
    const int64_t first = position >> 2;
    const int blocks = static_cast<int>(((position + count - 1) >> 2) - first + 1);
    for (int i = 0; i < blocks; ++i) counters[i] = static_cast<uint64_t>(first + i);
    philoxBlocks(key, stream, counters, blocks, words);
    const int64_t skipped = position - first * 4;
    for (int64_t i = 0; i < count; ++i) lanes[i] = uniformOf(words[(i + skipped) & 3][(i + skipped) >> 2]);
    return;
  }
  for (int64_t i = 0; i < count; ++i) counters[i] = static_cast<uint64_t>((position + i * stride) >> 2);
  philoxBlocks(key, stream, counters, static_cast<int>(count), words);
  for (int64_t i = 0; i < count; ++i) lanes[i] = uniformOf(words[(position + i * stride) & 3][i]);
}

}  // namespace BINADE_ISA
}  // namespace binade
