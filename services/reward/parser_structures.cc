// Lists, relations, set operations, brackets and words.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/reward/number_words.h"
#include "services/reward/parser.h"
#include "services/reward/unicode_fold.h"

namespace crescendo {

ParsedAnswer ParseAnswer(absl::string_view text, const ParseOptions& options, WorkBudget* budget,
                         Expressions* expressions) {
  ParsedAnswer answer;
  const std::string folded = FoldUnicode(text);
  std::vector<Token> tokens;
  if (!LexLatex(folded, &tokens)) {
    answer.failure = ParseFailure::kTooLong;
    return answer;
  }
  budget->Charge(static_cast<int64_t>(folded.size() + 4 * tokens.size()));
  answer.canonical = CanonicalText(tokens);
  if (answer.canonical.empty()) {
    answer.failure = ParseFailure::kEmpty;
    return answer;
  }
  reward_internal::Parser parser(&tokens, options, budget, expressions);
  answer.root = parser.ParseAll();
  answer.failure = parser.failure();
  answer.grouped_commas = parser.grouped_commas();
  if (answer.root == kNoNode && answer.failure == ParseFailure::kNone) {
    answer.failure = ParseFailure::kTooManyNodes;
  }
  return answer;
}

namespace reward_internal {

bool Parser::IsLowerWord(absl::string_view lower, size_t ahead) const {
  return IsWord(ahead) && absl::AsciiStrToLower(Peek(ahead).text) == lower;
}

bool Parser::AcceptChar(char c) {
  if (!IsChar(c)) return false;
  ++at_;
  return true;
}

bool Parser::AcceptCommand(absl::string_view name) {
  if (!IsCommand(name)) return false;
  ++at_;
  return true;
}

void Parser::ExpectChar(char c) {
  if (!AcceptChar(c)) Fail();
}

NodeId Parser::Fail(ParseFailure failure) {
  if (!failed()) failure_ = failure;
  return kNoNode;
}

// "The final answer is" in front of the answer itself.
void Parser::SkipPreamble() {
  size_t ahead = 0;
  while (IsLowerWord("the", ahead) || IsLowerWord("final", ahead) || IsLowerWord("answer", ahead))
    ++ahead;
  if (ahead > 0 && IsLowerWord("answer", ahead - 1) && IsLowerWord("is", ahead)) at_ += ahead + 1;
}

NodeId Parser::ParseAll() {
  SkipPreamble();
  NodeList items;
  const NodeId root = ParseList(&items);
  if (!failed() && !IsEnd()) return Fail();
  return failed() ? kNoNode : root;
}

Parser::Separator Parser::AcceptSeparator() {
  Separator separator = Separator::kNone;
  if (AcceptChar(',') || AcceptChar(';') || AcceptCommand("{,}")) separator = Separator::kComma;
  const bool comma = separator != Separator::kNone;
  if (IsLowerWord("and") || IsCommand("and") || IsChar('&')) {
    ++at_;
    return comma ? Separator::kComma : Separator::kAnd;
  }
  if (IsLowerWord("or") || IsCommand("or")) {
    ++at_;
    return Separator::kOr;
  }
  return separator;
}

bool Parser::AtListEnd() const {
  return IsEnd() || IsChar(')') || IsChar(']') || IsChar('}') || IsCommand("}") ||
         IsCommand("rangle") || IsCommand("end") || IsCommand("\\");
}

NodeId Parser::ParseList(NodeList* items) {
  Level level(this);
  Separator separator = Separator::kNone;
  while (!failed()) {
    items->push_back(ParseItem());
    const Separator next = AcceptSeparator();
    if (next == Separator::kNone) break;
    if (next != Separator::kComma || separator == Separator::kNone) separator = next;
    if (AtListEnd()) break;  // a trailing comma
  }
  if (failed()) return kNoNode;
  // "k \in \mathbb{Z}" beside an answer says what its letters are.
  NodeList answers;
  for (NodeId item : *items) {
    if (!IsCondition(item)) answers.push_back(item);
  }
  if (!answers.empty()) *items = answers;
  return JoinItems(*items, separator);
}

// Membership of a letter in one of the sets of numbers.
bool Parser::IsCondition(NodeId id) const {
  if (id == kNoNode || ex_.op(id) != Op::kRelation || ex_.text(id) != "i") return false;
  if (ex_.op(ex_.child(id, 0)) != Op::kSymbol || ex_.op(ex_.child(id, 1)) != Op::kSymbol)
    return false;
  const absl::string_view set = ex_.text(ex_.child(id, 1));
  return set == "Z" || set == "N" || set == "R" || set == "Q" || set == "C";
}

// "(k \in \mathbb{Z})" behind an answer.
void Parser::SkipCondition() {
  if (!IsChar('(') || !IsWord(1) || !IsCommand("in", 2)) return;
  size_t ahead = 3;
  while (!IsEnd(ahead) && !IsChar(')', ahead) && ahead < 16) ++ahead;
  if (IsChar(')', ahead)) at_ += ahead + 1;
}

// Inequalities joined by "or" are a union, by "and" or a comma an intersection; anything else is a
// list.
NodeId Parser::JoinItems(const NodeList& items, Separator separator) {
  if (items.size() == 1) return items[0];
  const auto is_inequality = [&](NodeId id) {
    return id != kNoNode && ex_.op(id) == Op::kRelation &&
           ex_.text(id).find('=') == std::string::npos &&
           ex_.text(id).find('~') == std::string::npos;
  };
  if (std::all_of(items.begin(), items.end(), is_inequality)) {
    return ex_.Make(separator == Separator::kOr ? Op::kUnion : Op::kIntersection, 0, items);
  }
  return ex_.Make(Op::kList, 0, items);
}

char Parser::AcceptRelation() {
  static constexpr struct {
    absl::string_view command;
    char relation;
  } kRelations[] = {{"le", 'l'},    {"ge", 'g'},     {"ne", 'n'},
                    {"equiv", '='}, {"approx", '~'}, {"in", 'i'}};
  for (char c : {'=', '<', '>'}) {
    if (AcceptChar(c)) return c;
  }
  for (const auto& [command, relation] : kRelations) {
    if (AcceptCommand(command)) return relation;
  }
  return '\0';
}

NodeId Parser::ParseItem() {
  Level level(this);
  AcceptCommand("approx");
  NodeList sides = {ParseSide()};
  std::string relations;
  while (!failed()) {
    const char relation = AcceptRelation();
    if (relation == '\0') break;
    relations.push_back(relation);
    sides.push_back(ParseSide());
  }
  if (failed()) return kNoNode;
  return sides.size() == 1 ? sides[0] : ex_.MakeRelation(sides, relations);
}

// "f(x)" in front of "=" is a name, not a product.
NodeId Parser::ParseFunctionNotation() {
  const Token& name = Peek();
  if (name.kind != Token::Kind::kWord || name.text.size() != 1 || !IsChar('(', 1)) return kNoNode;
  std::string text = absl::StrCat(name.text, "(");
  size_t ahead = 2;
  while (IsWord(ahead) || IsChar(',', ahead)) absl::StrAppend(&text, Peek(ahead++).text);
  if (ahead == 2 || !IsChar(')', ahead) ||
      !(IsChar('=', ahead + 1) || IsCommand("equiv", ahead + 1))) {
    return kNoNode;
  }
  at_ += ahead + 1;
  return ex_.MakeSymbol(text + ")");
}

NodeId Parser::ParseSide() {
  if (failed()) return kNoNode;
  if (const NodeId name = ParseFunctionNotation(); name != kNoNode) return name;
  if (IsProse()) return ParseProse();
  NodeId side = ParseSetOperations();
  if (!failed() && StartsUnit()) side = ParseUnits(side);
  if (!failed()) SkipCondition();
  return side;
}

NodeId Parser::ParseSetOperations() {
  NodeId left = ParseRatio();
  while (!failed()) {
    Op op = Op::kNone;
    const bool letter_u = left != kNoNode && ex_.op(left) == Op::kTuple && IsLowerWord("u");
    if (letter_u || IsCommand("cup")) op = Op::kUnion;
    if (IsCommand("cap")) op = Op::kIntersection;
    if (IsCommand("setminus")) op = Op::kDifference;
    if (op == Op::kNone) break;
    ++at_;
    const NodeId right = ParseRatio();
    left = ex_.Make(op, 0, {left, right});
  }
  return left;
}

NodeId Parser::ParseRatio() {
  NodeList parts = {ParseSum()};
  while (!failed() && !no_colon_ && AcceptChar(':')) parts.push_back(ParseSum());
  return parts.size() == 1 ? parts[0] : ex_.Make(Op::kRatio, 0, parts);
}

bool Parser::IsProse() const {
  if (!IsWord()) return false;
  const absl::string_view word = Peek().text;
  const bool word_follows = IsWord(1) && !IsLowerWord("and", 1) && !IsLowerWord("or", 1);
  if (FindFunction(absl::AsciiStrToLower(word)) || IsNumberWord(word)) return false;
  const std::string lower = absl::AsciiStrToLower(word);
  if (lower == "pi" || lower == "sqrt" || lower == "infinity" || lower == "inf") return false;
  if (word.size() == 1)
    return word_follows && Peek(1).space_before && Peek(1).text.size() > 1 &&
           !FindFunction(Peek(1).text);
  if (IsNumber(1) && Peek().in_text && IsChar('_', 2)) return false;  // A5_11
  if (IsCommand("$", 1) || (Peek().in_text && IsNumber(1) &&
                            (lower == "euros" || lower == "yen" || lower == "poundsterling")))
    return false;
  for (absl::string_view prose : {"odd", "yes", "no", "all", "any", "red", "dne"}) {
    if (lower == prose) return true;
  }
  const bool upper =
      std::all_of(word.begin(), word.end(), [](char c) { return absl::ascii_isupper(c); });
  const bool starts_with_function = word.size() == 4 && FindFunction(word.substr(0, 3)).has_value();
  if (starts_with_function && !Peek().in_text) return false;
  return upper || Peek().in_text || word.size() >= 4 || word_follows;
}

// Words up to the next separator or relation, lower case, without articles.
NodeId Parser::ParseProse() {
  std::vector<std::string> words;
  int brackets = 0;
  while (!IsEnd() && words.size() < 256) {
    const Token& token = Peek();
    if (brackets == 0 && (IsChar(',') || IsChar(';') || IsLowerWord("and") || IsLowerWord("or") ||
                          IsChar('=') || AtListEnd())) {
      break;
    }
    if (token.kind == Token::Kind::kUnknown) return Fail();
    if (token.kind == Token::Kind::kChar) {
      if (token.text == "(") ++brackets;
      if (token.text == ")") --brackets;
    } else {
      std::string word = absl::AsciiStrToLower(token.text);
      if (token.kind == Token::Kind::kCommand) word.insert(0, "\\");
      const bool article = words.empty() && (word == "the" || word == "a" || word == "an");
      if (!article || !IsWord(1)) words.push_back(std::move(word));
    }
    ++at_;
  }
  if (words.empty()) return Fail();
  return ex_.MakeText(absl::StrJoin(words, " "));
}

// After "(" or "[": a grouped expression, a tuple or an interval.
NodeId Parser::ParseParenthesis(bool closed_left) {
  Level level(this);
  if (failed()) return kNoNode;
  const bool no_colon = no_colon_;
  const int absolutes = absolutes_;
  no_colon_ = false;
  absolutes_ = 0;
  ++brackets_;
  NodeList items;
  const NodeId joined = ParseList(&items);
  --brackets_;
  no_colon_ = no_colon;
  absolutes_ = absolutes;
  if (failed()) return kNoNode;
  bool closed_right = false;
  if (AcceptChar(']')) {
    closed_right = true;
  } else if (!AcceptChar(')')) {
    return Fail();
  }
  if (items.size() == 1 && closed_left == closed_right) {
    return joined;
  }
  if (items.size() < 2) return Fail();
  return ex_.Make(Op::kTuple, (closed_left ? 1 : 0) | (closed_right ? 2 : 0), items);
}

// After "\{": a finite set, or the condition of a set-builder.
NodeId Parser::ParseSetBraces() {
  Level level(this);
  if (failed()) return kNoNode;
  if (AcceptCommand("}")) return ex_.MakeConstant(Op::kEmptySet);
  const bool no_colon = no_colon_;
  const int absolutes = absolutes_;
  no_colon_ = true;
  absolutes_ = 1;  // so that "|" ends the first item
  ++brackets_;
  NodeList items;
  ParseList(&items);
  NodeId result = kNoNode;
  if (!failed() && items.size() == 1 && (AcceptChar('|') || AcceptChar(':'))) {
    no_colon_ = false;
    absolutes_ = 0;
    NodeList conditions;
    result = ParseList(&conditions);
  } else if (!failed()) {
    const bool condition =
        items.size() == 1 && items[0] != kNoNode && ex_.op(items[0]) == Op::kRelation;
    result = condition ? items[0] : ex_.Make(Op::kSet, 0, items);
  }
  --brackets_;
  no_colon_ = no_colon;
  absolutes_ = absolutes;
  if (!failed() && !AcceptCommand("}")) return Fail();
  return failed() ? kNoNode : result;
}

// After "{": a TeX group; one with commas is a set that lost its backslashes.
NodeId Parser::ParseGroup(bool argument) {
  Level level(this);
  if (failed()) return kNoNode;
  const int brackets = brackets_;
  brackets_ = argument ? 0 : brackets_ + 1;
  NodeList items;
  NodeId joined = ParseList(&items);
  brackets_ = brackets;
  if (!failed() && AcceptCommand("over")) {
    const NodeId below = ParseSum();
    joined = ex_.MakeQuotient(joined, below);
  } else if (!failed() && AcceptCommand("choose")) {
    const NodeId below = ParseSum();
    joined = ex_.MakeFunction(Function::kBinomial, {joined, below});
  }
  ExpectChar('}');
  if (failed()) return kNoNode;
  return items.size() == 1 ? joined : ex_.Make(Op::kSet, 0, items);
}

NodeId Parser::ParseAngle() {
  Level level(this);
  ++brackets_;
  NodeList items;
  if (!failed()) ParseList(&items);
  --brackets_;
  if (failed() || !AcceptCommand("rangle") || items.size() < 2) return Fail();
  return ex_.Make(Op::kTuple, 0, items);
}

// After \begin{...matrix}: cells by "&", rows by "\\".
NodeId Parser::ParseMatrix() {
  Level level(this);
  NodeList cells;
  size_t columns = 0, in_row = 0;
  bool row_open = false;
  while (!failed() && !AcceptCommand("end")) {
    if (AcceptCommand("\\")) {
      if (columns == 0) columns = in_row;
      if (in_row != columns) return Fail();
      in_row = 0;
      row_open = false;
    } else if (row_open && AcceptChar('&')) {
      row_open = false;
    } else if (row_open || IsEnd() || cells.size() >= 1024) {
      return Fail();
    } else {
      cells.push_back(ParseSum());
      ++in_row;
      row_open = true;
    }
  }
  if (columns == 0) columns = in_row;
  if (failed() || cells.empty() || (in_row != 0 && in_row != columns)) return Fail();
  return ex_.Make(Op::kMatrix, static_cast<uint32_t>(columns), cells);
}

}  // namespace reward_internal
}  // namespace crescendo
