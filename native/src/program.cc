// Decodes a program: the header and the list of kernels. Owns the memory of decoded programs.
#include "program.h"

#include <cstdlib>
#include <vector>

#include "decode.h"

namespace binade {

namespace {

struct OwnedProgram : Program {
  std::vector<void*> blocks;
};

void decodeHeader(Reader& reader, Program* program) {
  reader.word("this addon's ABI version", kAbiVersion, kAbiVersion);
  program->arenaByteLength = reader.word("an arena byte length", 0, kMaxStride);
  program->bindingCount = reader.word("a binding count", 0, 1 << 20);
  program->kernelCount = reader.word("a kernel count", 0, reader.count());
  program->firstCommitKernel = reader.word("the first commit kernel", 0, program->kernelCount);
  program->byteLengths = reader.allocate<int64_t>(program->bindingCount + 1);
  program->alignments = reader.allocate<int64_t>(program->bindingCount + 1);
  program->lastMicroseconds = INT64_MAX;
  program->kernels = reader.allocate<Kernel>(program->kernelCount);
}

void decodeKernels(Reader& reader, Program* program) {
  for (int64_t i = 0; i < program->kernelCount && !reader.failed(); ++i) {
    Kernel& kernel = program->kernels[i];
    kernel.code = static_cast<KernelCode>(reader.word("a kernel code", 0, kKernelCodeCount - 1));
    const int64_t wordCount = reader.word("a payload's word count", 0, reader.count());
    const int64_t end = reader.position() + wordCount;
    decodeKernel(reader, &kernel);
    if (reader.position() != end) {
      reader.fail("expected kernel %lld to have the %lld words it states, got %lld", static_cast<long long>(i),
                  static_cast<long long>(wordCount), static_cast<long long>(reader.position() - end + wordCount));
    }
  }
}

}  // namespace

void* allocateForProgram(Program* program, size_t byteLength) {
  void* block = calloc(1, byteLength == 0 ? 1 : byteLength);
  if (block == nullptr) abort();
  static_cast<OwnedProgram*>(program)->blocks.push_back(block);
  return block;
}

Program* decodeProgram(const int64_t* words, int64_t count, char* error, size_t errorByteLength) {
  OwnedProgram* program = new OwnedProgram();
  Reader reader(words, count, program, error, errorByteLength);
  decodeHeader(reader, program);
  decodeKernels(reader, program);
  if (reader.position() != count) reader.fail("expected the end of the words, got more");
  if (!reader.failed()) return program;
  destroyProgram(program);
  return nullptr;
}

void destroyProgram(Program* program) {
  OwnedProgram* owned = static_cast<OwnedProgram*>(program);
  for (void* block : owned->blocks) free(block);
  delete owned;
}

}  // namespace binade
