/* Exact real and complex numbers of Calcium (Johansson, "Calcium: computing in exact real and
   complex fields", ISSAC 2021), behind functions: its headers are C only. A context holds its
   numbers by index, so nothing leaks past its end. A context belongs to one thread. Every function
   returns the index of its result, or -1 once the context is full. */
#ifndef CRESCENDO_SERVICES_REWARD_CALCIUM_BRIDGE_H_
#define CRESCENDO_SERVICES_REWARD_CALCIUM_BRIDGE_H_

#include <flint/fmpq.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CrescendoExact CrescendoExact;

enum { kCrescendoExactNumbersMax = 256 };

enum CrescendoExactFunction {
  kCrescendoExactSin,
  kCrescendoExactCos,
  kCrescendoExactTan,
  kCrescendoExactAsin,
  kCrescendoExactAcos,
  kCrescendoExactAtan,
  kCrescendoExactLog,
  kCrescendoExactExp,
  kCrescendoExactSqrt,
  kCrescendoExactAbs
};

CrescendoExact* CrescendoExactNew(void);
void CrescendoExactFree(CrescendoExact* exact);
int CrescendoExactRational(CrescendoExact* exact, const fmpq* value);
int CrescendoExactPi(CrescendoExact* exact);
int CrescendoExactE(CrescendoExact* exact);
int CrescendoExactI(CrescendoExact* exact);
int CrescendoExactAdd(CrescendoExact* exact, int a, int b);
int CrescendoExactMul(CrescendoExact* exact, int a, int b);
int CrescendoExactPow(CrescendoExact* exact, int base, int exponent);
int CrescendoExactApply(CrescendoExact* exact, enum CrescendoExactFunction function, int x);
/* 1: zero, 0: not zero, -1: not known. */
int CrescendoExactIsZero(CrescendoExact* exact, int x);

#ifdef __cplusplus
}
#endif

#endif /* CRESCENDO_SERVICES_REWARD_CALCIUM_BRIDGE_H_ */
