#include "services/reward/unicode_fold.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace crescendo {
namespace {

struct Fold {
  uint32_t code;
  const char* text;
};

// Sorted by code point.
constexpr Fold kFolds[] = {
    {0x00a0, " "},
    {0x00a2, "\\text{ cents}"},
    {0x00a3, "\\text{ poundsterling}"},
    {0x00a5, "\\text{ yen}"},
    {0x00ad, ""},
    {0x00b0, "^\\circ "},
    {0x00b1, "\\pm "},
    {0x00b7, "\\cdot "},
    {0x00bc, "\\frac{1}{4}"},
    {0x00bd, "\\frac{1}{2}"},
    {0x00be, "\\frac{3}{4}"},
    {0x00d7, "\\times "},
    {0x00f7, "\\div "},
    {0x0393, "\\Gamma "},
    {0x0394, "\\Delta "},
    {0x0398, "\\Theta "},
    {0x039b, "\\Lambda "},
    {0x03a0, "\\Pi "},
    {0x03a3, "\\Sigma "},
    {0x03a6, "\\Phi "},
    {0x03a8, "\\Psi "},
    {0x03a9, "\\Omega "},
    {0x03b1, "\\alpha "},
    {0x03b2, "\\beta "},
    {0x03b3, "\\gamma "},
    {0x03b4, "\\delta "},
    {0x03b5, "\\epsilon "},
    {0x03b6, "\\zeta "},
    {0x03b7, "\\eta "},
    {0x03b8, "\\theta "},
    {0x03b9, "\\iota "},
    {0x03ba, "\\kappa "},
    {0x03bb, "\\lambda "},
    {0x03bc, "\\mu "},
    {0x03bd, "\\nu "},
    {0x03be, "\\xi "},
    {0x03c0, "\\pi "},
    {0x03c1, "\\rho "},
    {0x03c3, "\\sigma "},
    {0x03c4, "\\tau "},
    {0x03c5, "\\upsilon "},
    {0x03c6, "\\phi "},
    {0x03c7, "\\chi "},
    {0x03c8, "\\psi "},
    {0x03c9, "\\omega "},
    {0x03d5, "\\phi "},
    {0x2000, " "},
    {0x2001, " "},
    {0x2002, " "},
    {0x2003, " "},
    {0x2004, " "},
    {0x2005, " "},
    {0x2006, " "},
    {0x2007, " "},
    {0x2008, " "},
    {0x2009, " "},
    {0x200a, " "},
    {0x200b, ""},
    {0x200c, ""},
    {0x200d, ""},
    {0x2010, "-"},
    {0x2011, "-"},
    {0x2012, "-"},
    {0x2013, "-"},
    {0x2014, "-"},
    {0x2015, "-"},
    {0x2018, "'"},
    {0x2019, "'"},
    {0x201c, "\""},
    {0x201d, "\""},
    {0x2022, "\\cdot "},
    {0x2026, "\\ldots "},
    {0x202f, " "},
    {0x2032, "'"},
    {0x2044, "/"},
    {0x205f, " "},
    {0x2060, ""},
    {0x2061, ""},
    {0x2062, ""},
    {0x2063, ""},
    {0x20ac, "\\text{ euros}"},
    {0x2102, "\\mathbb{C}"},
    {0x2115, "\\mathbb{N}"},
    {0x211a, "\\mathbb{Q}"},
    {0x211d, "\\mathbb{R}"},
    {0x2124, "\\mathbb{Z}"},
    {0x2150, "\\frac{1}{7}"},
    {0x2151, "\\frac{1}{9}"},
    {0x2152, "\\frac{1}{10}"},
    {0x2153, "\\frac{1}{3}"},
    {0x2154, "\\frac{2}{3}"},
    {0x2155, "\\frac{1}{5}"},
    {0x2156, "\\frac{2}{5}"},
    {0x2157, "\\frac{3}{5}"},
    {0x2158, "\\frac{4}{5}"},
    {0x2159, "\\frac{1}{6}"},
    {0x215a, "\\frac{5}{6}"},
    {0x215b, "\\frac{1}{8}"},
    {0x215c, "\\frac{3}{8}"},
    {0x215d, "\\frac{5}{8}"},
    {0x215e, "\\frac{7}{8}"},
    {0x2190, "\\leftarrow "},
    {0x2192, "\\to "},
    {0x21d2, "\\Rightarrow "},
    {0x2205, "\\emptyset "},
    {0x2208, "\\in "},
    {0x2212, "-"},
    {0x2213, "\\mp "},
    {0x2215, "/"},
    {0x2216, "\\setminus "},
    {0x2217, "*"},
    {0x2219, "\\cdot "},
    {0x221a, "\\sqrt "},
    {0x221b, "\\sqrt[3]"},
    {0x221c, "\\sqrt[4]"},
    {0x221e, "\\infty "},
    {0x2220, "\\angle "},
    {0x2223, "|"},
    {0x2227, "\\land "},
    {0x2228, "\\lor "},
    {0x2229, "\\cap "},
    {0x222a, "\\cup "},
    {0x2236, ":"},
    {0x223c, "\\sim "},
    {0x2248, "\\approx "},
    {0x2260, "\\ne "},
    {0x2261, "\\equiv "},
    {0x2264, "\\le "},
    {0x2265, "\\ge "},
    {0x2266, "\\le "},
    {0x2267, "\\ge "},
    {0x22c5, "\\cdot "},
    {0x2308, "\\lceil "},
    {0x2309, "\\rceil "},
    {0x230a, "\\lfloor "},
    {0x230b, "\\rfloor "},
    {0x2329, "\\langle "},
    {0x232a, "\\rangle "},
    {0x27e8, "\\langle "},
    {0x27e9, "\\rangle "},
    {0x2a7d, "\\le "},
    {0x2a7e, "\\ge "},
    {0x3000, " "},
    {0x3001, ","},
    {0x3002, "."},
    {0xfeff, ""},
    {0xffe0, "\\text{ cents}"},
    {0xffe5, "\\text{ yen}"},
};

// Superscripts and subscripts as ASCII, or 0.
char Superscript(uint32_t code) {
  switch (code) {
    case 0x00b2:
      return '2';
    case 0x00b3:
      return '3';
    case 0x00b9:
      return '1';
    case 0x2070:
      return '0';
    case 0x2071:
      return 'i';
    case 0x207a:
      return '+';
    case 0x207b:
      return '-';
    case 0x207d:
      return '(';
    case 0x207e:
      return ')';
    case 0x207f:
      return 'n';
    case 0x02e3:
      return 'x';
    default:
      return code >= 0x2074 && code <= 0x2079 ? static_cast<char>('0' + code - 0x2070) : '\0';
  }
}

char Subscript(uint32_t code) {
  return code >= 0x2080 && code <= 0x2089 ? static_cast<char>('0' + code - 0x2080) : '\0';
}

constexpr uint32_t kInvalid = ~uint32_t{0};

// One code point from the front; kInvalid consumes one byte.
uint32_t Decode(absl::string_view* text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>((*text)[i]); };
  const uint8_t lead = byte(0);
  const int length = lead < 0x80                   ? 1
                     : lead >= 0xf0 && lead < 0xf5 ? 4
                     : lead >= 0xe0 && lead < 0xf0 ? 3
                     : lead >= 0xc2 && lead < 0xe0 ? 2
                                                   : 0;
  if (length == 0 || text->size() < static_cast<size_t>(length)) {
    text->remove_prefix(1);
    return kInvalid;
  }
  uint32_t code = length == 1 ? lead : lead & (0xff >> (length + 1));
  for (int i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) {
      text->remove_prefix(1);
      return kInvalid;
    }
    code = code << 6 | (byte(i) & 0x3f);
  }
  text->remove_prefix(length);
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  return overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? kInvalid : code;
}

void AppendFold(uint32_t code, std::string* out) {
  if (code >= 0xff01 && code <= 0xff5e) {
    out->push_back(static_cast<char>(code - 0xfee0));
    return;
  }
  const auto* at =
      std::lower_bound(std::begin(kFolds), std::end(kFolds), code,
                       [](const Fold& fold, uint32_t value) { return fold.code < value; });
  if (at != std::end(kFolds) && at->code == code) {
    out->append(at->text);
  } else {
    out->push_back('\x01');
  }
}

}  // namespace

std::string FoldUnicode(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  char script = '\0';  // the run of superscripts ('^') or subscripts ('_') that is open
  while (!text.empty()) {
    const uint32_t code = Decode(&text);
    const char super = Superscript(code), sub = Subscript(code);
    const char kind = super != '\0' ? '^' : sub != '\0' ? '_' : '\0';
    if (script != kind) {
      if (script != '\0') out.push_back('}');
      if (kind != '\0') out.append({kind, '{'});
      script = kind;
    }
    if (kind != '\0') {
      out.push_back(super != '\0' ? super : sub);
    } else if (code < 0x80) {
      const char c = static_cast<char>(code);
      const bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
      out.push_back(space ? ' ' : c < ' ' || c == 0x7f ? '\x01' : c);
    } else {
      AppendFold(code, &out);
    }
  }
  if (script != '\0') out.push_back('}');
  return out;
}

}  // namespace crescendo
