// Package ratio turns pairs of measurements, ours and a baseline's from the
// same round, into a row: the median ratio, its 95 % interval, and whether the
// aim is met. Pure.
package ratio

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Unit is what Ours and Baseline of a row are counted in.
type Unit string

// The units.
const (
	Seconds Unit = "s"
	Bytes   Unit = "bytes"
)

// Pair is one round: both sides measured beside each other.
type Pair struct{ Ours, Baseline float64 }

// Aim bounds a row. At most one field is set; the zero Aim is none, and its row
// only informs.
type Aim struct {
	// Ratio is the most that ours/baseline may be.
	Ratio float64 `json:"ratio,omitempty"`
	// High is the most that the interval's upper end may be.
	High float64 `json:"high,omitempty"`
	// Ours is the most that ours may be, in the row's unit.
	Ours float64 `json:"ours,omitempty"`
}

// Row is one line of the benchmark.
type Row struct {
	Name string `json:"name"`
	Unit Unit   `json:"unit"`
	// Ratio is the median of the rounds' ratios; Low and High bound the true
	// median with Confidence (0.95, or what the rounds allow if fewer than 6).
	Ratio      float64 `json:"ratio"`
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Confidence float64 `json:"confidence"`
	// Ours and Baseline are the medians of each side, in Unit.
	Ours     float64 `json:"ours"`
	Baseline float64 `json:"baseline"`
	// Against names the baseline.
	Against string `json:"against"`
	Aim     Aim    `json:"aim,omitzero"`
	// Met: the median, or the interval's end where the aim is High, is within the
	// aim. True without an aim.
	Met    bool `json:"met"`
	Rounds int  `json:"rounds"`
	// Note says what a reader of the figure must know.
	Note string `json:"note,omitempty"`
}

// ErrNoRounds means that there is nothing to compare.
var ErrNoRounds = errors.New("no rounds")

// Compare makes the row of at least one pair. Every value must be positive.
func Compare(name, against string, unit Unit, aim Aim, pairs []Pair) (Row, error) {
	if len(pairs) == 0 {
		return Row{}, fmt.Errorf("row %s: %w", name, ErrNoRounds)
	}
	var ratios, ours, base []float64
	for i, p := range pairs {
		if !(p.Ours > 0) || !(p.Baseline > 0) || math.IsInf(p.Ours, 0) || math.IsInf(p.Baseline, 0) {
			return Row{}, fmt.Errorf("row %s: round %d measured %g against %g; both must be positive", name, i, p.Ours, p.Baseline)
		}
		ratios = append(ratios, p.Ours/p.Baseline)
		ours = append(ours, p.Ours)
		base = append(base, p.Baseline)
	}
	r := Row{Name: name, Against: against, Unit: unit, Aim: aim, Rounds: len(pairs),
		Ratio: Median(ratios), Ours: Median(ours), Baseline: Median(base)}
	r.Low, r.High, r.Confidence = Interval(ratios)
	r.Met = (aim.Ratio == 0 || r.Ratio <= aim.Ratio) && (aim.High == 0 || r.High <= aim.High) && (aim.Ours == 0 || r.Ours <= aim.Ours)
	return r, nil
}

// Median of at least one value; the middle of the two middle ones if even.
func Median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Interval bounds the true median of what values were drawn from, by order
// statistics: no shape of the distribution is assumed. The k outermost values
// on each side are left out, where k is the most that keeps the coverage,
// 1 - 2*P(Binomial(n, 1/2) < k+1), at 95 % or more. With fewer than 6 values
// not even the extremes reach 95 %; the coverage they have is given back.
func Interval(values []float64) (low, high, confidence float64) {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	out := 0
	for out+1 <= (n-1)/2 && coverage(n, out+1) >= 0.95 {
		out++
	}
	return s[out], s[n-1-out], coverage(n, out)
}

// coverage of the interval between the order statistics out+1 and n-out.
func coverage(n, out int) float64 {
	tail, logTerm := 0.0, -float64(n)*math.Ln2 // log of C(n,0)/2^n
	for k := 0; k <= out; k++ {
		tail += math.Exp(logTerm)
		logTerm += math.Log(float64(n-k)) - math.Log(float64(k+1))
	}
	return max(0, 1-2*tail)
}

// String is the row's line: name ratio=... ours=... baseline=... aim=... met|missed.
func (r Row) String() string {
	verdict, aim := "met", ""
	switch {
	case r.Aim.Ratio != 0:
		aim = "<=" + times(r.Aim.Ratio)
	case r.Aim.High != 0:
		aim = "=high<=" + times(r.Aim.High)
	case r.Aim.Ours != 0:
		aim = "=ours<=" + r.Unit.Format(r.Aim.Ours)
	default:
		aim, verdict = "=none", "info"
	}
	if !r.Met {
		verdict = "missed"
	}
	return fmt.Sprintf("%s ratio=%s [%s,%s] ours=%s baseline=%s aim%s %s",
		r.Name, times(r.Ratio), times(r.Low), times(r.High), r.Unit.Format(r.Ours), r.Unit.Format(r.Baseline), aim, verdict)
}

// times writes a ratio, a small one finer.
func times(x float64) string {
	if x < 0.1 {
		return strconv.FormatFloat(x, 'f', 4, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// Format writes a value with three digits and a unit that suits its size.
func (u Unit) Format(v float64) string {
	short := func(x float64) string { return strconv.FormatFloat(x, 'g', 3, 64) }
	switch {
	case u == Bytes && v >= 1<<20:
		return short(v/(1<<20)) + "MiB"
	case u == Bytes && v >= 1<<10:
		return short(v/(1<<10)) + "KiB"
	case u == Bytes:
		return strconv.FormatFloat(v, 'f', 0, 64) + "B"
	case v >= 1:
		return short(v) + "s"
	case v >= 1e-3:
		return fixed(v*1e3) + "ms"
	case v >= 1e-6:
		return fixed(v*1e6) + "us"
	}
	return fixed(v*1e9) + "ns"
}

// fixed writes 0 to 1000 with three digits and never an exponent.
func fixed(x float64) string {
	switch {
	case x >= 99.95:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 9.995:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}
