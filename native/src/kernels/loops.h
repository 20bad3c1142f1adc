// Marks a loop whose iterations are independent even where its arrays are the same array, so that it vectorises.
#pragma once

#if defined(__clang__)
#define BINADE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define BINADE_INDEPENDENT _Pragma("GCC ivdep")
#endif
