// The reader of program words, and the decoding of what all kernels share: refs, views, pointwise programs.
#pragma once
#include <cstdarg>

#include "program.h"

namespace binade {

/// Zeroed memory that is freed with the program.
void* allocateForProgram(Program* program, size_t byteLength);

/// Extents of a kernel's domain, as given.
struct Domain {
  int rank;
  int64_t extents[kMaxRank];
  int64_t size;
};

/// Row buffers that a pointwise program may load and store.
struct BufferUse {
  int loadable;
  int storable;
};

/// Reads words in order. After the first mistake `failed` holds, every read yields 0, and `error` keeps its sentence.
class Reader {
 public:
  Reader(const int64_t* words, int64_t count, Program* program, char* error, size_t errorByteLength)
      : words_(words), count_(count), program_(program), error_(error), errorByteLength_(errorByteLength) {}

  bool failed() const { return failed_; }
  int64_t position() const { return position_; }
  int64_t count() const { return count_; }
  int64_t bindingCount() const { return program_->bindingCount; }
  void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));
  /// The next word, which must lie in [low, high].
  int64_t word(const char* what, int64_t low, int64_t high);
  DType dtype(const char* what);
  Ref ref();
  Domain domain();
  /// Zeroed storage that lives as long as the program.
  template <typename T>
  T* allocate(int64_t count) {
    return static_cast<T*>(allocateForProgram(program_, static_cast<size_t>(count) * sizeof(T)));
  }
  /// Notes that elements [least, greatest] (element offsets from `ref`, inclusive) of `byteLength` bytes are touched.
  void touch(Ref ref, __int128 least, __int128 greatest, int64_t byteLength);
  /// Notes a contiguous array of `count` elements; an empty one touches nothing.
  void touchArray(Ref ref, __int128 count, int64_t byteLength);

 private:
  const int64_t* words_;
  int64_t count_;
  Program* program_;
  char* error_;
  size_t errorByteLength_;
  int64_t position_ = 0;
  bool failed_ = false;
};

constexpr int64_t kMaxWord = INT64_MAX;
constexpr int64_t kMaxExtent = int64_t{1} << 40;
constexpr int64_t kMaxStride = int64_t{1} << 44;

int64_t byteLengthOf(DType dtype);

/// Decodes a pointwise program over `domain`, with the domain's own axes as the grid.
void decodeVm(Reader& reader, const Domain& domain, BufferUse use, Vm* vm);

/// Merges neighbouring axes of the grid that every operand crosses with one stride, inside each group of axes.
/// `groupEnds` (ascending, the last one the rank) is updated to the axes left; a group keeps at least one axis.
void mergeAxes(Vm* vm, int* groupEnds, int groupCount);

/// Moves axis `from` of the grid to the end: it becomes the lanes.
void moveAxisToEnd(Vm* vm, int from);

/// Computes rows and lanes, and puts what is the same in every block first. Last step of every decoding.
void finishVm(Reader& reader, Vm* vm);

void decodeKernel(Reader& reader, Kernel* kernel);
void decodePlane(Reader& reader, Kernel* kernel);
void decodeConvolution(Reader& reader, Kernel* kernel);
void decodeChannel(Reader& reader, Kernel* kernel);

/// float32, float16 or bfloat16: what is multiplied.
DType decodeMatrixDType(Reader& reader, const char* what);

/// The product of extents [begin, end).
int64_t productOf(const int64_t* extents, int begin, int end);

}  // namespace binade
