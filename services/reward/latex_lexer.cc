#include "services/reward/latex_lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace crescendo {
namespace {

template <size_t n>
bool IsOneOf(absl::string_view name, const absl::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Commands that only style what follows.
constexpr absl::string_view kIgnored[] = {
    "left",       "right",   "middle",       "big",       "Big",         "bigg",   "Bigg",
    "bigl",       "bigr",    "Bigl",         "Bigr",      "biggl",       "biggr",  "Biggl",
    "Biggr",      "bigm",    "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits",
    "mathstrut",  "phantom", "rm",           "bf",        "it",          "sf",     "tt",
    "hfill",      "null",    "allowbreak",   "nonumber",  "notag",       "relax",  "strut",
    "normalfont", "bfseries"};
constexpr absl::string_view kSpaces[] = {
    "quad",      "qquad",        ",",     ";",  ":",      "!", " ", ">", "enspace",
    "thinspace", "negthinspace", "hskip", "\n", "enskip", "/"};
// Commands whose braces hold words.
constexpr absl::string_view kText[] = {"text",   "mbox",       "mathrm", "textrm",       "textbf",
                                       "textit", "textnormal", "textsc", "operatorname", "hbox",
                                       "texttt", "textsf",     "emph",   "mathtt"};
// Commands whose braces hold mathematics in another font.
constexpr absl::string_view kFont[] = {"mathbf",     "mathit",     "mathsf",    "mathbb",   "bm",
                                       "boldsymbol", "mathcal",    "mathscr",   "mathfrak", "boxed",
                                       "fbox",       "ensuremath", "underline", "pmb"};
// Commands that are skipped with the group that follows.
constexpr absl::string_view kSkipped[] = {"hspace", "vspace", "color", "tag",
                                          "label",  "kern",   "mspace"};

struct Alias {
  absl::string_view from, to;
};
constexpr Alias kAliases[] = {{"dfrac", "frac"},
                              {"nicefrac", "frac"},
                              {"sfrac", "frac"},
                              {"tfrac", "frac"},
                              {"cfrac", "frac"},
                              {"dbinom", "binom"},
                              {"tbinom", "binom"},
                              {"leq", "le"},
                              {"leqslant", "le"},
                              {"leqq", "le"},
                              {"geq", "ge"},
                              {"geqslant", "ge"},
                              {"geqq", "ge"},
                              {"neq", "ne"},
                              {"lt", "<"},
                              {"gt", ">"},
                              {"bullet", "cdot"},
                              {"ast", "cdot"},
                              {"cdotp", "cdot"},
                              {"lbrace", "{"},
                              {"rbrace", "}"},
                              {"varnothing", "emptyset"},
                              {"dots", "ldots"},
                              {"cdots", "ldots"},
                              {"dotsc", "ldots"},
                              {"varphi", "phi"},
                              {"varepsilon", "epsilon"},
                              {"vartheta", "theta"},
                              {"backslash", "setminus"},
                              {"smallsetminus", "setminus"},
                              {"degree", "circ"},
                              {"tg", "tan"},
                              {"ctg", "cot"},
                              {"arctg", "arctan"},
                              {"lvert", "|"},
                              {"rvert", "|"},
                              {"vert", "|"},
                              {"mid", "|"},
                              {"colon", ":"},
                              {"lbrack", "["},
                              {"rbrack", "]"},
                              {"wedge", "land"},
                              {"vee", "lor"},
                              {"newline", "\\"},
                              {"cr", "\\"},
                              {"bigcup", "cup"},
                              {"bigcap", "cap"},
                              {"overleftrightarrow", "overline"},
                              {"bmod", "mod"},
                              {"lor", "or"},
                              {"land", "and"},
                              {"sp", "^"}};

class Lexer {
 public:
  Lexer(absl::string_view text, std::vector<Token>* tokens) : text_(text), tokens_(*tokens) {}

  bool Run() {
    tokens_.clear();
    DollarAtTheFront();
    while (at_ < text_.size()) {
      if (tokens_.size() >= kTokensMax || braces_.size() > kTokensMax) return false;
      Next();
    }
    DropTrailing();
    tokens_.push_back({});
    return true;
  }

 private:
  enum class Brace : uint8_t { kGroup, kDropped, kText };

  // "$5" is five dollars; "$5$" is mathematics.
  void DollarAtTheFront() {
    size_t dollars = 0;
    for (size_t i = 0; i < text_.size(); ++i) {
      if (text_[i] == '\\')
        ++i;
      else if (text_[i] == '$')
        ++dollars;
    }
    unpaired_dollar_ = dollars % 2 == 1;
  }

  void Push(Token::Kind kind, absl::string_view text) {
    Token token;
    token.kind = kind;
    token.text = text;
    token.space_before = space_;
    token.in_text = text_depth_ > 0;
    tokens_.push_back(token);
    space_ = false;
  }

  void Next() {
    const char c = text_[at_];
    if (c == ' ' || c == '~') {
      space_ = true;
      ++at_;
    } else if (c == '\\') {
      LexCommand();
    } else if (absl::ascii_isdigit(c) ||
               (c == '.' && at_ + 1 < text_.size() && absl::ascii_isdigit(text_[at_ + 1]))) {
      LexNumber();
    } else if (absl::ascii_isalpha(c)) {
      size_t end = at_;
      while (end < text_.size() && absl::ascii_isalpha(text_[end])) ++end;
      Push(Token::Kind::kWord, text_.substr(at_, end - at_));
      at_ = end;
    } else {
      LexChar(c);
    }
  }

  void LexNumber() {
    size_t end = at_;
    const auto digit = [&](size_t i) { return i < text_.size() && absl::ascii_isdigit(text_[i]); };
    while (digit(end)) ++end;
    if (end < text_.size() && text_[end] == '.' && digit(end + 1)) {
      ++end;
      while (digit(end)) ++end;
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '-' || text_[exponent] == '+')) ++exponent;
      size_t last = exponent;
      while (digit(last)) ++last;
      const bool word = last < text_.size() && absl::ascii_isalpha(text_[last]);
      if (last > exponent && last - exponent <= 6 && !word) end = last;
    }
    Push(Token::Kind::kNumber, text_.substr(at_, end - at_));
    at_ = end;
  }

  bool Ahead(absl::string_view prefix) const { return absl::StartsWith(text_.substr(at_), prefix); }

  void LexChar(char c) {
    static constexpr struct {
      absl::string_view from, to;
    } kDigraphs[] = {{"<=", "le"},     {">=", "ge"},  {"!=", "ne"}, {"==", "="}, {"->", "to"},
                     {"...", "ldots"}, {"+/-", "pm"}, {"+-", "pm"}, {"**", "^"}};
    for (const auto& digraph : kDigraphs) {
      if (Ahead(digraph.from)) {
        const bool character = digraph.to.size() == 1;
        Push(character ? Token::Kind::kChar : Token::Kind::kCommand, digraph.to);
        at_ += digraph.from.size();
        return;
      }
    }
    if (Ahead("{,}")) {
      Push(Token::Kind::kCommand, "{,}");
      at_ += 3;
      return;
    }
    ++at_;
    switch (c) {
      case '$':
        if (unpaired_dollar_ && at_ < text_.size()) {
          Push(Token::Kind::kCommand, "$");
          unpaired_dollar_ = false;
        } else {
          space_ = true;
        }
        return;
      case '{':
        OpenBrace();
        return;
      case '}':
        CloseBrace();
        return;
      case '\x01':
        Push(Token::Kind::kUnknown, text_.substr(at_ - 1, 1));
        return;
      case '`':
      case '"':
        return;
      default:
        Push(Token::Kind::kChar, text_.substr(at_ - 1, 1));
    }
  }

  void OpenBrace() {
    Brace brace = Brace::kGroup;
    if (pending_ != Brace::kGroup) {
      brace = pending_;
      pending_ = Brace::kGroup;
    } else if (text_depth_ > 0) {
      brace = Brace::kDropped;
    } else {
      Push(Token::Kind::kChar, "{");
    }
    if (brace == Brace::kText) ++text_depth_;
    if (brace != Brace::kGroup) space_ = true;
    braces_.push_back(brace);
  }

  void CloseBrace() {
    const Brace brace = braces_.empty() ? Brace::kGroup : braces_.back();
    if (!braces_.empty()) braces_.pop_back();
    if (brace == Brace::kGroup) {
      Push(Token::Kind::kChar, "}");
    } else if (brace == Brace::kText) {
      --text_depth_;
      space_ = true;
    }
  }

  absl::string_view CommandName() const {
    size_t end = at_ + 1;
    while (end < text_.size() && absl::ascii_isalpha(text_[end])) ++end;
    if (end == at_ + 1 && end < text_.size()) ++end;
    return text_.substr(at_ + 1, end - at_ - 1);
  }

  void SkipGroup() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (at_ >= text_.size() || text_[at_] != '{') return;
    int depth = 0;
    do {
      if (text_[at_] == '{') ++depth;
      if (text_[at_] == '}') --depth;
      ++at_;
    } while (depth > 0 && at_ < text_.size());
  }

  // \begin{name}: one command token of the whole, "begin:" and "end:" by the name that follows.
  void LexEnvironment(bool begin) {
    const size_t close = text_.find('}', at_);
    if (at_ >= text_.size() || text_[at_] != '{' || close == absl::string_view::npos) {
      Push(Token::Kind::kUnknown, "begin");
      return;
    }
    const absl::string_view name = text_.substr(at_ + 1, close - at_ - 1);
    at_ = close + 1;
    environments_ += begin ? 1 : -1;
    if (begin && (name == "array" || name == "tabular")) SkipGroup();
    Push(Token::Kind::kCommand, begin ? "begin" : "end");
    tokens_.back().in_text = name == "cases" || name == "tabular";  // not a matrix
  }

  // "\\": a new row in a matrix; elsewhere a doubled backslash or a line break.
  void LexDoubleBackslash() {
    if (environments_ > 0) {
      Push(Token::Kind::kCommand, "\\");
      at_ += 2;
      return;
    }
    const bool doubled = at_ + 2 < text_.size() && absl::ascii_isalpha(text_[at_ + 2]);
    at_ += doubled ? 1 : 2;
    space_ = true;
  }

  void LexCommand() {
    absl::string_view name = CommandName();
    if (name == "\\") return LexDoubleBackslash();
    at_ += 1 + name.size();
    if (name.empty()) return;
    if (name == "(" || name == ")" || name == "[" || name == "]" || IsOneOf(name, kSpaces)) {
      if (name != "!") space_ = true;
      return;
    }
    if (IsOneOf(name, kIgnored)) {
      if ((name == "left" || name == "right") && at_ < text_.size() && text_[at_] == '.') ++at_;
      return;
    }
    if (IsOneOf(name, kText) || IsOneOf(name, kFont)) {
      while (at_ < text_.size() && text_[at_] == ' ') ++at_;
      if (at_ < text_.size() && text_[at_] == '{')
        pending_ = IsOneOf(name, kText) ? Brace::kText : Brace::kDropped;
      return;
    }
    if (IsOneOf(name, kSkipped)) return SkipGroup();
    if (name == "textcolor") {
      SkipGroup();
      if (at_ < text_.size() && text_[at_] == '{') pending_ = Brace::kDropped;
      return;
    }
    if (name == "begin" || name == "end") return LexEnvironment(name == "begin");
    PushCommand(name);
  }

  void PushCommand(absl::string_view name) {
    for (const Alias& alias : kAliases) {
      if (name == alias.from) name = alias.to;
    }
    static constexpr absl::string_view kCharacters[] = {"|", "<", ">", "%", "&", "_",
                                                        "#", ":", "[", "]", "^", "-"};
    if (IsOneOf(name, kCharacters)) {
      Push(Token::Kind::kChar, name);
    } else if (name == "$") {
      Push(Token::Kind::kCommand, "$");
    } else {
      Push(Token::Kind::kCommand, name);
    }
  }

  void DropTrailing() {
    while (!tokens_.empty() && tokens_.back().kind == Token::Kind::kChar &&
           (tokens_.back().text == "." || tokens_.back().text == "," ||
            tokens_.back().text == ";" || tokens_.back().text == ":" ||
            tokens_.back().text == "*")) {
      tokens_.pop_back();
    }
  }

  absl::string_view text_;
  std::vector<Token>& tokens_;
  size_t at_ = 0;
  bool space_ = false;
  bool unpaired_dollar_ = false;
  Brace pending_ = Brace::kGroup;
  std::vector<Brace> braces_;
  int text_depth_ = 0;
  int environments_ = 0;
};

}  // namespace

bool LexLatex(absl::string_view folded, std::vector<Token>* tokens) {
  return Lexer(folded, tokens).Run();
}

std::string CanonicalText(const std::vector<Token>& tokens) {
  std::string text;
  bool word = false;  // the last token was a word: two words need a space
  const auto is_brace = [&](size_t i, char brace) {
    return i < tokens.size() && tokens[i].kind == Token::Kind::kChar && tokens[i].text[0] == brace;
  };
  size_t closing = tokens.size();  // of a group of one token, whose braces say nothing
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Token& token = tokens[i];
    if (token.kind == Token::Kind::kEnd) break;
    if (is_brace(i, '{') && is_brace(i + 2, '}')) {
      closing = i + 2;
      continue;
    }
    if (i == closing) continue;
    const bool is_word = token.kind == Token::Kind::kWord;
    if (token.kind == Token::Kind::kCommand && token.text != "{,}") absl::StrAppend(&text, "\\");
    if (word && is_word) absl::StrAppend(&text, " ");
    if (token.kind == Token::Kind::kNumber && !text.empty() && absl::ascii_isdigit(text.back())) {
      absl::StrAppend(&text, " ");
    }
    absl::StrAppend(&text, token.text);
    word = is_word || token.kind == Token::Kind::kCommand;
  }
  return text;
}

}  // namespace crescendo
