// The tokenizer's own rules on vocabularies small enough to check by hand: merges, words, added
// tokens, any bytes in, valid UTF-8 out, and bad files refused by name.
#include "common/text/tokenizer.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/text/byte_alphabet.h"
#include "common/text/utf8.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

using Ids = std::vector<int32_t>;

// All 256 bytes, then a few merges.
TokenizerSpec SmallSpec() {
  TokenizerSpec spec;
  spec.source = "small";
  for (int byte = 0; byte < 256; ++byte) {
    spec.vocabulary.emplace_back(AlphabetCharacter(static_cast<uint8_t>(byte)), byte);
  }
  const auto merge = [&](const std::string& left, const std::string& right) {
    spec.merges.emplace_back(left, right);
    spec.vocabulary.emplace_back(left + right, static_cast<int32_t>(spec.vocabulary.size()));
  };
  merge("b", "c");         // 256
  merge("a", "b");         // 257: never applies to "abc", "bc" comes first
  merge("a", "bc");        // 258
  merge("\xc4\xa0", "a");  // 259: " a"
  spec.splits = {{std::string(kGpt2Regex)}};
  spec.added_tokens = {{"<s>", 300, true}, {"<s>x", 301, true}, {"@@", 302, false}};
  spec.bos_id = 300;
  return spec;
}

std::unique_ptr<Tokenizer> Small() {
  auto made = Tokenizer::Make(SmallSpec());
  REQUIRE(made.ok());
  return std::move(made).value();
}

TEST_CASE("the merge of lowest rank goes first, leftmost among equals") {
  const auto t = Small();
  CHECK(t->Encode("abc", true) == Ids{258});
  CHECK(t->Encode("ab", true) == Ids{257});
  CHECK(t->Encode("abab", true) == Ids{257, 257});
  CHECK(t->Encode("x a", true) == Ids{'x', 259});
  CHECK(t->Encode("", true).empty());
}

TEST_CASE("short and long words are merged alike") {
  const auto t = Small();
  CounterRng rng(3);
  for (int round = 0; round < 50; ++round) {
    std::string word;
    for (int i = 0; i < 200; ++i) word.push_back("abcx"[rng.Below(4)]);
    // A long word goes through the heap; its pieces of 7 bytes, cut where no merge crosses, through
    // the scan.
    Ids pieces;
    std::string piece;
    for (const char c : word) {
      piece.push_back(c);
      if (c == 'x') {
        const Ids ids = t->Encode(piece, true);
        pieces.insert(pieces.end(), ids.begin(), ids.end());
        piece.clear();
      }
    }
    const Ids ids = t->Encode(piece, true);
    pieces.insert(pieces.end(), ids.begin(), ids.end());
    REQUIRE(t->Encode(word, true) == pieces);
  }
}

TEST_CASE(
    "added tokens: the longest of the leftmost; control only when allowed and never in literals") {
  const auto t = Small();
  CHECK(t->Encode("q<s>x<s>", true) == Ids{'q', 301, 300});
  CHECK(t->Encode("q<s>", false) == Ids{'q', '<', 's', '>'});
  CHECK(t->Encode("<s>@@<s>", false) == Ids{'<', 's', '>', 302, '<', 's', '>'});
  CHECK(t->Encode("<s><s><s>", true, {{3, 6}}) == Ids{300, '<', 's', '>', 300});
  CHECK(t->Encode("<s><s>", true, {{2, 3}}) == Ids{'<', 's', '>', 300});
  CHECK(t->IsSpecial(300));
  CHECK_FALSE(t->IsSpecial(302));
  CHECK_FALSE(t->IsSpecial(-1));
  CHECK(t->Decode({300, 'a', 302}, true) == "a@@");
  CHECK(t->Decode({300, 'a', 302}, false) == "<s>a@@");
  CHECK(t->vocab_size() == 303);
  CHECK(t->TokenId("<s>") == 300);
  CHECK_FALSE(t->TokenId("no").has_value());
}

TEST_CASE("flags of added tokens are kept") {
  TokenizerSpec spec = SmallSpec();
  AddedToken token;
  token.content = "ee";
  token.id = 310;
  token.single_word = true;
  spec.added_tokens.push_back(token);
  token = AddedToken();
  token.content = "[M]";
  token.id = 311;
  token.lstrip = token.rstrip = true;
  spec.added_tokens.push_back(token);
  const auto t = *Tokenizer::Make(spec);
  CHECK(t->Encode("ee!", true) == Ids{310, '!'});
  CHECK(t->Encode("eef", true) == Ids{'e', 'e', 'f'});
  CHECK(t->Encode("z  [M] \xe2\x80\x83y", true) == Ids{'z', 311, 'y'});
}

TEST_CASE("every byte string encodes, and its bytes come back") {
  const auto t = Small();
  CounterRng rng(5);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (uint64_t i = rng.Below(30); i > 0; --i) text.push_back(static_cast<char>(rng.Below(256)));
    std::string bytes;
    for (const int32_t id : t->Encode(text, false)) absl::StrAppend(&bytes, t->TokenBytes(id));
    REQUIRE(bytes == text);
  }
}

TEST_CASE("a stream never emits a part of a character, and equals Decode at the end") {
  const auto t = Small();
  CounterRng rng(6);
  for (int round = 0; round < 300; ++round) {
    Ids ids;
    std::string bytes;
    for (uint64_t i = rng.Below(40); i > 0; --i) {
      if (rng.Below(2) == 0) {
        AppendCodePoint(static_cast<uint32_t>(rng.Below(0xd800)), &bytes);
      } else {
        bytes.push_back(static_cast<char>(rng.Below(256)));
      }
    }
    for (const char c : bytes) ids.push_back(static_cast<unsigned char>(c));
    StreamingDecoder stream(t.get(), true);
    std::string whole;
    for (const int32_t id : ids) {
      const std::string piece = stream.Push(id);
      for (absl::string_view rest = piece; !rest.empty();) {
        const Utf8Step step = NextUtf8(rest);
        REQUIRE(step.kind == Utf8Kind::kValid);
        rest.remove_prefix(step.length);
      }
      whole += piece;
    }
    whole += stream.Finish();
    REQUIRE(whole == t->Decode(ids, true));
  }
}

TEST_CASE("invalid UTF-8 becomes one U+FFFD for each maximal subpart") {
  const auto lossy = [](absl::string_view bytes) {
    std::string out;
    AppendUtf8Lossy(bytes, true, &out);
    return out;
  };
  const std::string r = "\xef\xbf\xbd";
  // Unicode 15, table 3-8.
  CHECK(lossy("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64") ==
        "a" + r + r + r + "b" + r + "c" + r + r + "d");
  CHECK(lossy("\xed\xa0\x80") == r + r + r);
  CHECK(lossy("\xf4\x90\x80\x80") == r + r + r + r);
  CHECK(lossy("\xc0\xaf") == r + r);
  CHECK(lossy("\xf0\x9f\x98") == r);
}

TEST_CASE("normalization form C composes") {
  CHECK(ToNfc("e\xcc\x81") == "\xc3\xa9");
  CHECK(ToNfc("\xe1\x84\x80\xe1\x85\xa1") == "\xea\xb0\x80");
  CHECK(ToNfc(absl::string_view("a\0e\xcc\x81", 5)) == std::string("a\0\xc3\xa9", 4));
}

// As the demo's: 47 tokens, single characters, no merges.
std::string DemoJson() {
  std::string vocabulary = R"("<pad>":0,"<bos>":1,"<eos>":2)";
  int id = 3;
  for (const char c : std::string("0123456789+-*="))
    absl::StrAppend(&vocabulary, ",\"", std::string(1, c), "\":", id++);
  const int boxed = id++;
  for (const char c : std::string("}?~abcdefghijklmnopqrstuvwxyz")) {
    absl::StrAppend(&vocabulary, ",\"", std::string(1, c), "\":", id++);
  }
  const auto added = [](int token, const char* content, bool special) {
    return absl::StrCat(
        R"({"id":)", token, R"(,"content":")", content, R"(","single_word":false,"lstrip":false,)",
        R"("rstrip":false,"normalized":false,"special":)", special ? "true}" : "false}");
  };
  return absl::StrCat(
      R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)",
      added(0, "<pad>", true), ",", added(1, "<bos>", true), ",", added(2, "<eos>", true), ",",
      added(boxed, "\\\\boxed{", false),
      R"(],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,)",
      R"("use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","dropout":null,)",
      R"("unk_token":null,"ignore_merges":false,"vocab":{)", vocabulary, R"(},"merges":[]}})");
}

TEST_CASE("the demo's tokenizer works") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "tokenizer.json", DemoJson()).ok());
  const auto loaded = Tokenizer::FromHuggingFace(*dir.files, dir.path());
  INFO(loaded.status().ToString());
  REQUIRE(loaded.ok());
  const Tokenizer& t = **loaded;
  CHECK(t.vocab_size() == 47);
  CHECK(t.bos_id() == 1);
  CHECK(t.eos_id() == 2);
  CHECK(t.pad_id() == 0);
  CHECK_FALSE(t.add_bos());
  const Ids ids = t.Encode("<bos>a6b*9=4\\boxed{94}<eos>", true);
  REQUIRE(ids.size() == 13);
  CHECK(ids[0] == 1);
  CHECK(ids[8] == 17);  // \boxed{
  CHECK(ids[12] == 2);
  CHECK(t.Decode(ids, true) == "a6b*9=4\\boxed{94}");
  CHECK(t.Encode("A a", true) == Ids{t.TokenId("a").value()});  // bytes without a token vanish
}

std::string ErrorOf(std::string json, const std::string& from, const std::string& to) {
  REQUIRE(absl::StrContains(json, from));
  json.replace(json.find(from), from.size(), to);
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "tokenizer.json", json).ok());
  const auto loaded = Tokenizer::FromHuggingFace(*dir.files, dir / "tokenizer.json");
  if (loaded.ok()) return "OK";
  const std::string message(loaded.status().message());
  const std::string place = dir / "tokenizer.json: ";
  CHECK(absl::StartsWith(message, place));
  return message.substr(std::min(place.size(), message.size()));
}

TEST_CASE("a tokenizer.json that is damaged or of another kind is refused by name") {
  const std::string json = DemoJson();
  CHECK(ErrorOf(json, "\"merges\":[]", "\"merges\":[\"a b\"]") ==
        "merge 0 ('a' 'b'): a part or the result is not in the vocabulary");
  CHECK(ErrorOf(json, "\"merges\":[]", "\"merges\":[[\"a\"]]") ==
        "model.merges[0]: expected a string or a pair of strings");
  CHECK(ErrorOf(json, "\"merges\":[]", "\"merges\":[\"ab\"]") ==
        "model.merges[0]: expected two parts with a space between");
  CHECK(ErrorOf(json, "\"a\":21", "\"a\":-21") ==
        "model.vocab: 'a': expected a token id below 1048576");
  CHECK(ErrorOf(json, "\"a\":21", "\"a\":2100000000") ==
        "model.vocab: 'a': expected a token id below 1048576");
  CHECK(ErrorOf(json, "\"a\":21", "\"a\":22") == "tokens 'a' and 'b' have the same id 22");
  CHECK(ErrorOf(json, "\"a\":21", "\"a\":21,\"a\":21") == "key 'a' is there twice");
  CHECK(ErrorOf(json, "\"type\":\"BPE\"", "\"type\":\"Unigram\"") ==
        "model.type: expected BPE, found Unigram");
  CHECK(ErrorOf(json, "{\"type\":\"ByteLevel\",\"add", "{\"type\":\"Metaspace\",\"add") ==
        "pre_tokenizer: expected Split, Digits or ByteLevel, found 'Metaspace'");
  CHECK(ErrorOf(json, "\"normalizer\":null", "\"normalizer\":{\"type\":\"Lowercase\"}") ==
        "normalizer: expected NFC or none, found 'Lowercase'");
  CHECK(ErrorOf(json, "\"normalizer\":null", "\"normalizer\":[]") ==
        "normalizer: expected NFC or none, found ''");
  CHECK(absl::StartsWith(
      ErrorOf(json, "{\"type\":\"ByteLevel\",\"add",
              R"({"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated","add)"),
      "pre_tokenizer: "));
  CHECK(absl::StartsWith(
      ErrorOf(
          json, "\"pre_tokenizer\":{",
          R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"},{"type":"ByteLevel"}]},"x":{)"),
      "pre_tokenizer: expression '(a': missing closing parenthesis"));
}

TEST_CASE("a bos from the post-processor's template is known") {
  TempDir dir;
  std::string json = DemoJson();
  const std::string from = "\"post_processor\":null";
  json.replace(
      json.find(from), from.size(),
      R"("post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",)"
      R"("single":[{"SpecialToken":{"id":"<bos>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],)"
      R"("special_tokens":{"<bos>":{"id":"<bos>","ids":[1],"tokens":["<bos>"]}}}]})");
  REQUIRE(dir.files->WriteFile(dir / "tokenizer.json", json).ok());
  REQUIRE(
      dir.files->WriteFile(dir / "tokenizer_config.json", R"({"eos_token":{"content":"<pad>"}})")
          .ok());
  const auto loaded = Tokenizer::FromHuggingFace(*dir.files, dir / "tokenizer.json");
  REQUIRE(loaded.ok());
  CHECK((*loaded)->add_bos());
  CHECK((*loaded)->bos_id() == 1);
  CHECK((*loaded)->eos_id() == 0);
}

TEST_CASE("an expression that explodes ends, and its text stays whole") {
  TokenizerSpec spec = SmallSpec();
  spec.splits = {{"(a+)+$b"}};
  const auto t = Tokenizer::Make(spec);
  REQUIRE(t.ok());
  CHECK((*t)->Encode(std::string(60, 'a'), true).size() == 60);
}

TEST_CASE("a word of a megabyte is encoded in time") {
  const auto t = Small();
  std::string text;
  for (int i = 0; i < 350'000; ++i) text += "abc";
  CHECK(t->Encode(text, true).size() == 350'000);
}

}  // namespace
}  // namespace crescendo
