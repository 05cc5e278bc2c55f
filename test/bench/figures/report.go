// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Machine is what the figures were taken on.
type Machine struct {
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	// Load is the load average when the benchmark began: above nothing, the figures
	// are those of a machine that is shared.
	Load float64 `json:"load"`
}

// Report is all that a benchmark has to say, and the form of its file.
type Report struct {
	Taken       time.Time     `json:"taken"`
	Took        time.Duration `json:"took"`
	Machine     Machine       `json:"machine"`
	Repetitions int           `json:"repetitions"`
	Results     []Result      `json:"results"`
}

// Missed names the rows whose budget is missed and that are no known shortfall.
func (r Report) Missed() []string {
	var ids []string
	for _, result := range r.Results {
		if result.Verdict() == Missed {
			ids = append(ids, result.ID)
		}
	}
	return ids
}

// Table is the report in Markdown.
func (r Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Taken on %s: %d CPUs, Linux %s, %s, load average %s when it began; %d repetitions, medians (least–most), %s in all.\n\n",
		r.Taken.UTC().Format("2006-01-02 15:04 UTC"), r.Machine.CPUs, r.Machine.Kernel, r.Machine.Go, number(r.Machine.Load),
		r.Repetitions, r.Took.Round(time.Second))
	b.WriteString("| row | figure | unit | measured | floor | compared | budget | verdict |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Results {
		floor, compared := "–", "–"
		if x.Floor != "" {
			floor, compared = x.FloorValue().String(), x.Compared().String()
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n",
			x.ID, x.Figure, x.Unit, x.Value(), floor, compared, x.Says(), x.Verdict())
	}
	return b.String()
}

// Notes are what else was seen, a line a row.
func (r Report) Notes() string {
	var b strings.Builder
	for _, x := range r.Results {
		for i, m := range x.Samples {
			if m.Note != "" {
				fmt.Fprintf(&b, "%s, repetition %d: %s\n", x.ID, i+1, m.Note)
			}
		}
	}
	return b.String()
}

// Shortfalls are the known ones in Markdown; empty if there are none.
func (r Report) Shortfalls() string {
	var b strings.Builder
	for _, x := range r.Results {
		if x.Shortfall == "" {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("| row | why | now |\n|---|---|---|\n")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", x.ID, x.Shortfall, x.Verdict())
	}
	return b.String()
}

// Write writes anything as a file of JSON, with its directory.
func Write(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o600)
}

// Read reads what Write wrote.
func Read(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Fill replaces what stands between the two marks of a name in a document.
func Fill(document, name, text string) (string, error) {
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	before, rest, ok := strings.Cut(document, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("the document has no %q with its end", strings.TrimSpace(begin))
	}
	return before + begin + "\n" + strings.TrimSpace(text) + "\n\n" + end + after, nil
}
