// The Node-API module: JavaScript arguments into programs and runs, their outcomes into values. No arithmetic.
#include <node_api.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine.h"

namespace binade {

namespace {

/// What jobs share with the environment that started them.
struct Instance {
  std::atomic<bool> closing{false};
  int64_t heldMicroseconds = 0;  // by runs on its own thread, since it last waited for one
};
using InstanceData = std::shared_ptr<Instance>;

std::atomic<int> chosenIsa{0};

/// Programs that JavaScript may name. A handle made by another addon is not in here.
std::mutex programsMutex;
std::set<Program*> programs;

struct Job {
  InstanceData instance;
  Program* program;
  std::vector<void*> bases;
  Executor executor;
  uint64_t turn;
  Outcome outcome = {false, false, 0, {-1, 0, 0, 0}};
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref kept = nullptr;  // the handle and the bindings, so that their memory stays
};

napi_value throwError(napi_env env, const std::string& message) {
  napi_throw_error(env, "ERR_BINADE", message.c_str());
  return nullptr;
}

napi_value makeNumber(napi_env env, double number) {
  napi_value value = nullptr;
  napi_create_double(env, number, &value);
  return value;
}

napi_value makeString(napi_env env, const char* text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value);
  return value;
}

/// Fills `values` (undefined where an argument is missing).
template <size_t N>
void readArguments(napi_env env, napi_callback_info info, napi_value (&values)[N]) {
  size_t count = N;
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
}

std::string isaChoices() {
  std::string choices;
  for (int i = 0; i < supportedIsaCount(); ++i) choices += (i == 0 ? "" : ", ") + std::string(supportedIsa(i).name);
  return choices;
}

bool chooseIsa(napi_env env, const char* subject, const char* name) {
  for (int i = 0; i < supportedIsaCount(); ++i) {
    if (strcmp(supportedIsa(i).name, name) != 0) continue;
    chosenIsa = i;
    return true;
  }
  throwError(env, std::string(subject) + ": expected one of " + isaChoices() + " (what this machine runs), got \"" +
                      name + "\"; choose one of them or leave it unset");
  return false;
}

napi_value isa(napi_env env, napi_callback_info) { return makeString(env, supportedIsa(chosenIsa).name); }

napi_value setIsa(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  readArguments(env, info, arguments);
  char name[32] = "";
  napi_get_value_string_utf8(env, arguments[0], name, sizeof name, nullptr);
  chooseIsa(env, "setIsa", name);
  return nullptr;
}

napi_value supportedIsas(napi_env env, napi_callback_info) {
  napi_value list = nullptr;
  napi_create_array(env, &list);
  for (int i = 0; i < supportedIsaCount(); ++i) {
    napi_set_element(env, list, static_cast<uint32_t>(i), makeString(env, supportedIsa(i).name));
  }
  return list;
}

napi_value setThreads(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  readArguments(env, info, arguments);
  double threads = 0;
  napi_get_value_double(env, arguments[0], &threads);
  if (!(threads >= 1 && threads <= 1024) || threads != static_cast<int>(threads)) {
    return throwError(env, "setThreads: expected a whole number from 1 to 1024, got another value");
  }
  Engine::instance().setThreads(static_cast<int>(threads));
  return nullptr;
}

napi_value threads(napi_env env, napi_callback_info) { return makeNumber(env, Engine::instance().threads()); }

napi_value arenaByteLength(napi_env env, napi_callback_info) {
  return makeNumber(env, static_cast<double>(Engine::instance().arenaByteLength()));
}

napi_value measurePeak(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  readArguments(env, info, arguments);
  char name[16] = "";
  double milliseconds = 0;
  napi_get_value_string_utf8(env, arguments[0], name, sizeof name, nullptr);
  napi_get_value_double(env, arguments[1], &milliseconds);
  const struct {
    const char* name;
    PeakKind kind;
  } kinds[] = {{"float32", PeakKind::float32}, {"bfloat16", PeakKind::bfloat16}, {"memory", PeakKind::memory}};
  for (const auto& row : kinds) {
    if (strcmp(row.name, name) != 0) continue;
    if (!(milliseconds >= 0 && milliseconds <= 10000)) break;
    return makeNumber(
        env, Engine::instance().measurePeak(supportedIsa(chosenIsa).burst, row.kind, milliseconds / 1000));
  }
  return throwError(env, "measurePeak: expected \"float32\", \"bfloat16\" or \"memory\" and 0 to 10000 milliseconds, got "
                         "other values");
}

void finalizeProgram(napi_env, void* data, void*) {
  Program* program = static_cast<Program*>(data);
  {
    const std::lock_guard<std::mutex> lock(programsMutex);
    programs.erase(program);
  }
  destroyProgram(program);
}

napi_value createProgram(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  readArguments(env, info, arguments);
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
  const napi_status status = napi_get_typedarray_info(env, arguments[0], &type, &length, &data, nullptr, nullptr);
  if (status != napi_ok || type != napi_bigint64_array) {
    return throwError(env, "createProgram: expected a BigInt64Array of program words, got another value");
  }
  char error[256] = "";
  const int64_t* words = static_cast<const int64_t*>(data);
  Program* program = decodeProgram(words, static_cast<int64_t>(length), error, sizeof error);
  if (program == nullptr) return throwError(env, error);
  {
    const std::lock_guard<std::mutex> lock(programsMutex);
    programs.insert(program);
  }
  napi_value handle = nullptr;
  napi_create_external(env, program, finalizeProgram, nullptr, &handle);
  return handle;
}

Program* programOf(napi_env env, napi_value handle) {
  napi_valuetype type = napi_undefined;
  napi_typeof(env, handle, &type);
  void* data = nullptr;
  if (type == napi_external) napi_get_value_external(env, handle, &data);
  const std::lock_guard<std::mutex> lock(programsMutex);
  Program* program = static_cast<Program*>(data);
  return programs.count(program) == 0 ? nullptr : program;
}

size_t elementByteLength(napi_typedarray_type type) {
  switch (type) {
    case napi_int16_array:
    case napi_uint16_array:
      return 2;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array:
      return 4;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array:
      return 8;
    default:
      return 1;
  }
}

/// Memory of an ArrayBuffer, a typed array or a DataView; false for any other value. Kinds newer than Node-API 8 count bytes
/// as elements, which can only make a buffer look too short. Beyond 4 GiB, typed arrays of bytes end in older versions of Node.
bool memoryOf(napi_env env, napi_value view, void** data, size_t* byteLength) {
  bool whole = false, typed = false, dataView = false;
  napi_is_arraybuffer(env, view, &whole);
  if (whole) return napi_get_arraybuffer_info(env, view, data, byteLength) == napi_ok;
  napi_is_typedarray(env, view, &typed);
  if (typed) {
    napi_typedarray_type type = napi_int8_array;
    if (napi_get_typedarray_info(env, view, &type, byteLength, data, nullptr, nullptr) != napi_ok) return false;
    *byteLength *= elementByteLength(type);
    return true;
  }
  napi_is_dataview(env, view, &dataView);
  return dataView && napi_get_dataview_info(env, view, byteLength, data, nullptr, nullptr) == napi_ok;
}

/// Checks binding `index` against what the program touches; false after throwing.
bool bindMemory(napi_env env, napi_value view, int64_t index, Job* job) {
  void* data = nullptr;
  size_t byteLength = 0;
  const std::string subject = "run: binding " + std::to_string(index);
  if (!memoryOf(env, view, &data, &byteLength)) {
    throwError(env, subject + ": expected an ArrayBuffer, typed array or DataView, got another value");
    return false;
  }
  const int64_t needed = job->program->byteLengths[index];
  if (static_cast<int64_t>(byteLength) < needed) {
    throwError(env, subject + ": expected at least " + std::to_string(needed) + " bytes, got " +
                        std::to_string(byteLength));
    return false;
  }
  const uintptr_t alignment = static_cast<uintptr_t>(job->program->alignments[index]);
  if (needed > 0 && reinterpret_cast<uintptr_t>(data) % alignment != 0) {
    throwError(env, subject + ": expected memory aligned to " + std::to_string(alignment) + " bytes, got " +
                        std::to_string(reinterpret_cast<uintptr_t>(data) % alignment) + " bytes past that");
    return false;
  }
  job->bases[static_cast<size_t>(index)] = data;
  return true;
}

/// A job from (handle, bindings); null after throwing. `kept` receives an array of all that must stay alive.
std::unique_ptr<Job> makeJob(napi_env env, napi_callback_info info, napi_value* kept) {
  napi_value arguments[2];
  readArguments(env, info, arguments);
  std::unique_ptr<Job> job(new Job());
  job->program = programOf(env, arguments[0]);
  if (job->program == nullptr) {
    throwError(env, "run: expected a handle from createProgram, got another value");
    return nullptr;
  }
  bool isArray = false;
  uint32_t count = 0;
  napi_is_array(env, arguments[1], &isArray);
  if (isArray) napi_get_array_length(env, arguments[1], &count);
  if (!isArray || count != job->program->bindingCount) {
    throwError(env, "run: expected an array of " + std::to_string(job->program->bindingCount) + " bindings, got " +
                        (isArray ? std::to_string(count) : "another value"));
    return nullptr;
  }
  job->bases.resize(count + 1);
  napi_create_array(env, kept);
  napi_set_element(env, *kept, count, arguments[0]);
  for (uint32_t i = 0; i < count; ++i) {
    napi_value view = nullptr;
    napi_get_element(env, arguments[1], i, &view);
    napi_set_element(env, *kept, i, view);
    if (!bindMemory(env, view, int64_t{i} + 1, job.get())) return nullptr;
  }
  void* instance = nullptr;
  napi_get_instance_data(env, &instance);
  job->instance = *static_cast<InstanceData*>(instance);
  job->executor = supportedIsa(chosenIsa).run;
  return job;
}

/// null, or { kernel, position, value }.
napi_value faultValue(napi_env env, const Fault& fault) {
  napi_value value = nullptr;
  if (fault.kernel < 0) {
    napi_get_null(env, &value);
    return value;
  }
  napi_create_object(env, &value);
  napi_set_named_property(env, value, "kernel", makeNumber(env, static_cast<double>(fault.kernel)));
  napi_set_named_property(env, value, "position", makeNumber(env, static_cast<double>(fault.position)));
  napi_set_named_property(env, value, "value", makeNumber(env, static_cast<double>(fault.value)));
  return value;
}

std::string arenaMessage(const Job& job) {
  return "run: expected " + std::to_string(job.program->arenaByteLength) +
         " bytes of memory for intermediate values, got none; use a smaller batch";
}

void runJob(Job* job) {
  job->outcome =
      Engine::instance().run(job->turn, *job->program, job->bases.data(), job->executor, job->instance->closing);
}

/// Runs a job that has its turn on this thread.
napi_value runHere(napi_env env, Job* job) {
  runJob(job);
  job->instance->heldMicroseconds += job->outcome.microseconds;
  if (job->outcome.noMemory) return throwError(env, arenaMessage(*job));
  return faultValue(env, job->outcome.fault);
}

napi_value runSync(napi_env env, napi_callback_info info) {
  napi_value kept = nullptr;
  const std::unique_ptr<Job> job = makeJob(env, info, &kept);
  if (job == nullptr) return nullptr;
  job->turn = Engine::instance().askTurn();
  return runHere(env, job.get());
}

void executeJob(napi_env, void* data) { runJob(static_cast<Job*>(data)); }

void completeJob(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (status == napi_cancelled) Engine::instance().giveUp(job->turn);
  if (job->outcome.ran) {
    napi_resolve_deferred(env, job->deferred, faultValue(env, job->outcome.fault));
  } else {
    napi_value error = nullptr;
    const std::string message = job->outcome.noMemory ? arenaMessage(*job) : "run: expected to run, got cancelled";
    napi_create_error(env, makeString(env, "ERR_BINADE"), makeString(env, message.c_str()), &error);
    napi_reject_deferred(env, job->deferred, error);
  }
  napi_delete_reference(env, job->kept);
  napi_delete_async_work(env, job->work);
}

napi_value run(napi_env env, napi_callback_info info) {
  napi_value kept = nullptr, promise = nullptr;
  std::unique_ptr<Job> job = makeJob(env, info, &kept);
  if (job == nullptr) return nullptr;
  job->turn = Engine::instance().askTurnAtOnce(*job->program, job->instance->heldMicroseconds);
  if (job->turn != 0) return runHere(env, job.get());
  job->instance->heldMicroseconds = 0;
  napi_create_reference(env, kept, 1, &job->kept);
  napi_create_promise(env, &job->deferred, &promise);
  napi_create_async_work(env, nullptr, makeString(env, "binade.run"), executeJob, completeJob, job.get(), &job->work);
  // Turns are asked for here, on the calling thread, so that runs are executed in the order of the calls.
  job->turn = Engine::instance().askTurn();
  napi_queue_async_work(env, job->work);
  job.release();
  return promise;
}

void closeInstance(void* data) {
  static_cast<InstanceData*>(data)->get()->closing = true;
  Engine::instance().waitUntilIdle();
}

void deleteInstance(napi_env, void* data, void*) { delete static_cast<InstanceData*>(data); }

napi_value initialize(napi_env env, napi_value exports) {
  const char* wanted = getenv("BINADE_ISA");
  if (wanted != nullptr && *wanted != '\0' && !chooseIsa(env, "BINADE_ISA", wanted)) return nullptr;
  InstanceData* instance = new InstanceData(new Instance());
  napi_set_instance_data(env, instance, deleteInstance, nullptr);
  napi_add_env_cleanup_hook(env, closeInstance, instance);
  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {{"isa", isa},
                   {"setIsa", setIsa},
                   {"supportedIsas", supportedIsas},
                   {"setThreads", setThreads},
                   {"threads", threads},
                   {"arenaByteLength", arenaByteLength},
                   {"measurePeak", measurePeak},
                   {"createProgram", createProgram},
                   {"run", run},
                   {"runSync", runSync}};
  for (const auto& function : functions) {
    napi_value value = nullptr;
    napi_create_function(env, function.name, NAPI_AUTO_LENGTH, function.callback, nullptr, &value);
    napi_set_named_property(env, exports, function.name, value);
  }
  napi_set_named_property(env, exports, "abiVersion", makeNumber(env, kAbiVersion));
  return exports;
}

}  // namespace

}  // namespace binade

NAPI_MODULE_INIT() { return binade::initialize(env, exports); }
