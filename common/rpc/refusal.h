// Why a call or a connection was refused: the reasons of crescendo_<service>_refused_calls_total.
#ifndef CRESCENDO_COMMON_RPC_REFUSAL_H_
#define CRESCENDO_COMMON_RPC_REFUSAL_H_

#include <functional>

namespace crescendo {

enum class Refusal {
  kHandshake,    // no certificate, one of another authority, an expired one
  kNoRole,       // a certificate that names none of our roles
  kNoToken,      // a call without a bearer token
  kWrongToken,   // a token that is not (or no longer) accepted for the role
  kWrongRole,    // a call that the role may not make
  kMalformed,    // bytes that are not the message of the method
  kOversized,    // a message above limits::kMessageBytesMax
  kSlowReader,   // a stream whose reader took nothing for limits::kStalledWriteMax
  kConnections,  // a connection above limits::kConnectionsMax
};

inline constexpr Refusal kRefusals[] = {
    Refusal::kHandshake,  Refusal::kNoRole,     Refusal::kNoToken,
    Refusal::kWrongToken, Refusal::kWrongRole,  Refusal::kMalformed,
    Refusal::kOversized,  Refusal::kSlowReader, Refusal::kConnections};

// The label's value.
constexpr const char* RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kHandshake:
      return "handshake";
    case Refusal::kNoRole:
      return "no_role";
    case Refusal::kNoToken:
      return "no_token";
    case Refusal::kWrongToken:
      return "wrong_token";
    case Refusal::kWrongRole:
      return "wrong_role";
    case Refusal::kMalformed:
      return "malformed";
    case Refusal::kOversized:
      return "oversized";
    case Refusal::kSlowReader:
      return "slow_reader";
    case Refusal::kConnections:
      return "connections";
  }
  return "unknown";
}

// Called from any thread; quick, never blocks.
using OnRefusal = std::function<void(Refusal)>;

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_REFUSAL_H_
