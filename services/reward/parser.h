// The parser behind expression_parser.h, for its three units only: parser_structures.cc (lists,
// relations, sets, text), parser_scalars.cc (sums to powers) and parser_primaries.cc (numbers,
// commands, functions, units).
//
// Each Parse* consumes what it understands and returns kNoNode once anything failed; `failure_`
// says what. One per text.
#ifndef CRESCENDO_SERVICES_REWARD_PARSER_H_
#define CRESCENDO_SERVICES_REWARD_PARSER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "services/reward/expression.h"
#include "services/reward/expression_parser.h"
#include "services/reward/latex_lexer.h"

namespace crescendo::reward_internal {

using NodeList = absl::InlinedVector<NodeId, 8>;

class Parser {
 public:
  Parser(std::vector<Token>* tokens, const ParseOptions& options, WorkBudget* budget,
         Expressions* expressions)
      : tokens_(*tokens), options_(options), budget_(*budget), ex_(*expressions) {}

  NodeId ParseAll();
  ParseFailure failure() const { return failure_; }
  bool grouped_commas() const { return grouped_commas_; }

 private:
  enum class Separator : uint8_t { kNone, kComma, kOr, kAnd };

  // One call on the stack, counted; a level of brackets takes seven.
  class Level {
   public:
    explicit Level(Parser* parser) : parser_(*parser) {
      if (++parser_.depth_ > 8 * kNestingMax) parser_.Fail(ParseFailure::kTooDeep);
    }
    ~Level() { --parser_.depth_; }

   private:
    Parser& parser_;
  };

  // Tokens.
  const Token& Peek(size_t ahead = 0) const {
    const size_t at = at_ + ahead;
    return tokens_[at < tokens_.size() ? at : tokens_.size() - 1];
  }
  bool IsChar(char c, size_t ahead = 0) const {
    const Token& token = Peek(ahead);
    return token.kind == Token::Kind::kChar && token.text[0] == c;
  }
  bool IsCommand(absl::string_view name, size_t ahead = 0) const {
    const Token& token = Peek(ahead);
    return token.kind == Token::Kind::kCommand && token.text == name;
  }
  bool IsWord(size_t ahead = 0) const { return Peek(ahead).kind == Token::Kind::kWord; }
  bool IsNumber(size_t ahead = 0) const { return Peek(ahead).kind == Token::Kind::kNumber; }
  bool IsEnd(size_t ahead = 0) const { return Peek(ahead).kind == Token::Kind::kEnd; }
  bool IsLowerWord(absl::string_view lower, size_t ahead = 0) const;
  bool AcceptChar(char c);
  bool AcceptCommand(absl::string_view name);
  void ExpectChar(char c);
  NodeId Fail(ParseFailure failure = ParseFailure::kSyntax);
  bool failed() const { return failure_ != ParseFailure::kNone; }

  // Structures.
  void SkipPreamble();
  Separator AcceptSeparator();
  bool AtListEnd() const;
  NodeId ParseList(NodeList* items);  // the items; what they make without brackets
  NodeId JoinItems(const NodeList& items, Separator separator);
  NodeId ParseItem();
  bool IsCondition(NodeId id) const;
  void SkipCondition();
  NodeId ParseSide();
  NodeId ParseFunctionNotation();
  char AcceptRelation();
  NodeId ParseSetOperations();
  NodeId ParseRatio();
  NodeId ParseProse();
  bool IsProse() const;
  NodeId ParseParenthesis(bool closed_left);
  NodeId ParseSetBraces();
  NodeId ParseGroup(bool argument);  // of an argument commas are thousands separators
  NodeId ParseMatrix();
  NodeId ParseAngle();

  // Scalars.
  NodeId ParseSum();
  NodeId ParseSignedTerm(bool* plus_minus, bool* minus_first);
  NodeId ParseTerm();
  NodeId ParseJuxtaposed(NodeId left, bool literal);
  bool StartsFactor() const;
  NodeId ParsePower();
  NodeId ParsePostfix(NodeId base);
  NodeId MakePower(NodeId base, NodeId exponent);
  NodeId ParseDegrees(NodeId value);
  NodeId ParseExponent();
  NodeId ParsePrimary();

  // Primaries.
  NodeId ParseNumber();
  NodeId NumberFromDigits(absl::string_view digits, int decimals, absl::string_view repeating,
                          int64_t exponent, bool decimal);
  bool CollectDigits(std::string* digits, int* decimals, int64_t* exponent, bool* decimal);
  bool CommaGroups() const;
  bool SpaceGroups() const;
  bool AcceptRepeating(std::string* repeating);
  NodeId TryBasedNumber();
  NodeId ParseWord();
  NodeId ParseNumberWord();
  NodeId ParseSymbol(std::string name);
  NodeId ParseLetters(absl::string_view letters);
  NodeId ParseCommand();
  NodeId ParseFraction();
  NodeId ParseRoot();
  NodeId ParseArgument();  // a TeX argument: a group, a digit, a letter or a command
  NodeId ParseBetween(absl::string_view close, Function function);
  NodeId ParseAbsolute();
  NodeId ParseFunction(Function function);
  NodeId Hyperbolic(Function function, NodeId x);
  NodeId ParseFunctionArguments(NodeList* arguments);
  std::string ParseSubscript();
  NodeId ParseCurrency();

  // Units behind an expression.
  bool StartsUnit() const;
  NodeId ParseUnits(NodeId quantity);
  std::optional<Unit> ParseUnit(bool* generic);
  int ParseUnitPower();
  NodeId ParseCompound(NodeId quantity);

  std::vector<Token>& tokens_;
  const ParseOptions options_;
  WorkBudget& budget_;
  Expressions& ex_;
  size_t at_ = 0;
  int depth_ = 0;
  int brackets_ = 0;   // open brackets: there commas separate
  int absolutes_ = 0;  // open "|"
  bool no_colon_ = false;
  bool grouped_commas_ = false;
  ParseFailure failure_ = ParseFailure::kNone;
};

// A function by its name ("sin", "arcsin", "lcm"); nullopt for any other name.
std::optional<Function> FindFunction(absl::string_view name);

}  // namespace crescendo::reward_internal

#endif  // CRESCENDO_SERVICES_REWARD_PARSER_H_
