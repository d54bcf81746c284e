#include "common/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr size_t kRegexBytesMax = 8192;
constexpr size_t kStepsMax = 16;
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

// Unicode's White_Space, which Oniguruma means by \s. PCRE2's own \s has U+180E on top.
constexpr absl::string_view kSpaces =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{"
    "205f}\\x{3000}";

// Letters and numbers that Unicode 15 and 16 added: Oniguruma knows them, PCRE2 10.42 (Unicode 14)
// does not.
constexpr absl::string_view kNewLetters =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"
    "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
constexpr absl::string_view kNewNumbers =
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

// What stands for an escape of Oniguruma's: a class of PCRE2's without its brackets; empty when it
// means the same there.
std::string ClassOf(absl::string_view escape) {
  if (escape == "\\s") return std::string(kSpaces);
  if (escape == "\\p{L}") return absl::StrCat(escape, kNewLetters);
  if (escape == "\\p{N}") return absl::StrCat(escape, kNewNumbers);
  return "";
}

absl::StatusOr<std::string> RewriteForPcre(absl::string_view regex) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < regex.size();) {
    const absl::string_view rest = regex.substr(i);
    if (rest[0] == '\\') {
      const bool property = rest.substr(0, 3) == "\\p{";
      const size_t brace = property ? rest.find('}') : 1;
      const absl::string_view escape =
          rest.substr(0, brace == absl::string_view::npos ? 2 : brace + 1);
      const std::string replacement = ClassOf(escape);
      if (escape == "\\S") {
        if (in_class) return absl::UnimplementedError("\\S inside [] is not read");
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else if (replacement.empty()) {
        absl::StrAppend(&out, escape);
      } else {
        absl::StrAppend(&out, in_class ? "" : "[", replacement, in_class ? "" : "]");
      }
      i += escape.size();
      continue;
    }
    if (in_class && ((rest[0] == '[' && rest.substr(0, 2) != "[:") || rest.substr(0, 2) == "&&")) {
      return absl::UnimplementedError("[] or && inside [] is not read");
    }
    if (rest[0] == '[') in_class = true;
    if (rest[0] == ']') in_class = false;
    out.push_back(rest[0]);
    ++i;
  }
  return out;
}

}  // namespace

const absl::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const absl::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const absl::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct PreTokenizer::Regex {
  struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  struct FreeContext {
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::unique_ptr<pcre2_match_context, FreeContext> context;
  bool removed = false;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Make(
    absl::Span<const SplitStep> steps) {
  if (steps.size() > kStepsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected at most ", kStepsMax, " expressions, found ", steps.size()));
  }
  std::unique_ptr<PreTokenizer> out(new PreTokenizer);
  for (const SplitStep& step : steps) {
    const std::string place = absl::StrCat("expression '", step.regex.substr(0, 200), "'");
    if (step.regex.empty() || step.regex.size() > kRegexBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected an expression of 1 to ", kRegexBytesMax, " bytes"));
    }
    const absl::StatusOr<std::string> pattern = RewriteForPcre(step.regex);
    if (!pattern.ok()) return Annotate(pattern.status(), place);
    int error = 0;
    PCRE2_SIZE offset = 0;
    Regex regex;
    regex.removed = step.removed;
    regex.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern->data()), pattern->size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                   nullptr));
    if (regex.code == nullptr) {
      PCRE2_UCHAR message[256] = {};
      pcre2_get_error_message(error, message, sizeof(message));
      return absl::InvalidArgumentError(absl::StrCat(
          place, ": ", reinterpret_cast<const char*>(message), " (near byte ", offset, ")"));
    }
    // Without JIT (an architecture that has none) pcre2_match interprets.
    (void)pcre2_jit_compile(regex.code.get(), PCRE2_JIT_COMPLETE);
    regex.context.reset(pcre2_match_context_create(nullptr));
    CRESCENDO_CHECK(regex.context != nullptr);
    pcre2_set_match_limit(regex.context.get(), kMatchLimit);
    pcre2_set_heap_limit(regex.context.get(), kHeapLimitKib);
    out->regexes_.push_back(std::move(regex));
  }
  return out;
}

void PreTokenizer::Split(absl::string_view text,
                         const std::function<void(absl::string_view)>& emit) const {
  if (regexes_.empty()) {
    if (!text.empty()) emit(text);
    return;
  }
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  CRESCENDO_CHECK(data != nullptr);
  SplitFrom(0, text, emit, data);
  pcre2_match_data_free(data);
}

void PreTokenizer::SplitFrom(size_t step, absl::string_view text,
                             const std::function<void(absl::string_view)>& emit,
                             void* match_data) const {
  if (text.empty()) return;
  if (step == regexes_.size()) {
    emit(text);
    return;
  }
  const Regex& regex = regexes_[step];
  pcre2_match_data* data = static_cast<pcre2_match_data*>(match_data);
  size_t done = 0;    // everything before has been passed on
  size_t search = 0;  // where the next match may start
  while (search < text.size()) {
    const int found =
        pcre2_match(regex.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    search, PCRE2_NO_UTF_CHECK, data, regex.context.get());
    // No match, or a limit was hit: the rest is one word.
    if (found < 0) break;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    const size_t begin = range[0];
    const size_t end = range[1];
    if (end <= begin || begin < search) {
      // An empty match splits nothing. On to the next character.
      do {
        ++search;
      } while (search < text.size() && (static_cast<unsigned char>(text[search]) & 0xc0) == 0x80);
      continue;
    }
    SplitFrom(step + 1, text.substr(done, begin - done), emit, match_data);
    if (!regex.removed) SplitFrom(step + 1, text.substr(begin, end - begin), emit, match_data);
    done = search = end;
  }
  SplitFrom(step + 1, text.substr(done), emit, match_data);
}

}  // namespace crescendo
