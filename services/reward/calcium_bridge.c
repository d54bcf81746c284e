#include "services/reward/calcium_bridge.h"

#include <calcium/ca.h>
#include <stdlib.h>

struct CrescendoExact {
  ca_ctx_t context;
  ca_struct numbers[kCrescendoExactNumbersMax];
  int count;
};

CrescendoExact* CrescendoExactNew(void) {
  CrescendoExact* exact = flint_malloc(sizeof(CrescendoExact));
  ca_ctx_init(exact->context);
  /* Bounds on what one comparison may try; they make it say "unknown" earlier. */
  ca_ctx_set_option(exact->context, CA_OPT_PREC_LIMIT, 512);
  ca_ctx_set_option(exact->context, CA_OPT_QQBAR_DEG_LIMIT, 16);
  ca_ctx_set_option(exact->context, CA_OPT_LLL_PREC, 128);
  ca_ctx_set_option(exact->context, CA_OPT_POW_LIMIT, 10);
  ca_ctx_set_option(exact->context, CA_OPT_SMOOTH_LIMIT, 32);
  ca_ctx_set_option(exact->context, CA_OPT_GROEBNER_LENGTH_LIMIT, 20);
  ca_ctx_set_option(exact->context, CA_OPT_GROEBNER_POLY_LENGTH_LIMIT, 100);
  ca_ctx_set_option(exact->context, CA_OPT_GROEBNER_POLY_BITS_LIMIT, 500);
  exact->count = 0;
  return exact;
}

void CrescendoExactFree(CrescendoExact* exact) {
  for (int i = 0; i < exact->count; ++i) ca_clear(exact->numbers + i, exact->context);
  ca_ctx_clear(exact->context);
  flint_free(exact);
}

static ca_ptr Next(CrescendoExact* exact) {
  if (exact->count >= kCrescendoExactNumbersMax) return NULL;
  ca_ptr number = exact->numbers + exact->count++;
  ca_init(number, exact->context);
  return number;
}

static int Last(const CrescendoExact* exact) { return exact->count - 1; }

int CrescendoExactRational(CrescendoExact* exact, const fmpq* value) {
  ca_ptr number = Next(exact);
  if (number == NULL) return -1;
  ca_set_fmpq(number, value, exact->context);
  return Last(exact);
}

int CrescendoExactPi(CrescendoExact* exact) {
  ca_ptr number = Next(exact);
  if (number == NULL) return -1;
  ca_pi(number, exact->context);
  return Last(exact);
}

int CrescendoExactE(CrescendoExact* exact) {
  ca_ptr number = Next(exact);
  if (number == NULL) return -1;
  ca_one(number, exact->context);
  ca_exp(number, number, exact->context);
  return Last(exact);
}

int CrescendoExactI(CrescendoExact* exact) {
  ca_ptr number = Next(exact);
  if (number == NULL) return -1;
  ca_i(number, exact->context);
  return Last(exact);
}

int CrescendoExactAdd(CrescendoExact* exact, int a, int b) {
  ca_ptr number = Next(exact);
  if (number == NULL || a < 0 || b < 0) return -1;
  ca_add(number, exact->numbers + a, exact->numbers + b, exact->context);
  return Last(exact);
}

int CrescendoExactMul(CrescendoExact* exact, int a, int b) {
  ca_ptr number = Next(exact);
  if (number == NULL || a < 0 || b < 0) return -1;
  ca_mul(number, exact->numbers + a, exact->numbers + b, exact->context);
  return Last(exact);
}

int CrescendoExactPow(CrescendoExact* exact, int base, int exponent) {
  ca_ptr number = Next(exact);
  if (number == NULL || base < 0 || exponent < 0) return -1;
  ca_pow(number, exact->numbers + base, exact->numbers + exponent, exact->context);
  return Last(exact);
}

int CrescendoExactApply(CrescendoExact* exact, enum CrescendoExactFunction function, int x) {
  ca_ptr number = Next(exact);
  if (number == NULL || x < 0) return -1;
  ca_srcptr in = exact->numbers + x;
  switch (function) {
    case kCrescendoExactSin: ca_sin_cos(number, NULL, in, exact->context); break;
    case kCrescendoExactCos: ca_sin_cos(NULL, number, in, exact->context); break;
    case kCrescendoExactTan: ca_tan(number, in, exact->context); break;
    case kCrescendoExactAsin: ca_asin(number, in, exact->context); break;
    case kCrescendoExactAcos: ca_acos(number, in, exact->context); break;
    case kCrescendoExactAtan: ca_atan(number, in, exact->context); break;
    case kCrescendoExactLog: ca_log(number, in, exact->context); break;
    case kCrescendoExactExp: ca_exp(number, in, exact->context); break;
    case kCrescendoExactSqrt: ca_sqrt(number, in, exact->context); break;
    case kCrescendoExactAbs: ca_abs(number, in, exact->context); break;
    default: return -1;
  }
  return Last(exact);
}

int CrescendoExactIsZero(CrescendoExact* exact, int x) {
  if (x < 0) return -1;
  switch (ca_check_is_zero(exact->numbers + x, exact->context)) {
    case T_TRUE: return 1;
    case T_FALSE: return 0;
    default: return -1;
  }
}
