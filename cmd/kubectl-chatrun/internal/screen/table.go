// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"fmt"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"chatrun.dev/operator/api/v1alpha1"
)

// Column is one of a table; a wide one is shown where there is room.
type Column struct {
	Title string
	Wide  bool
}

// RunColumns are those of RunCells.
func RunColumns() []Column {
	return []Column{
		{Title: "NAME"}, {Title: "PROVIDER"}, {Title: "MODEL"}, {Title: "PHASE"}, {Title: "ATTEMPT"}, {Title: "RETRY"},
		{Title: "LAST-ERROR"}, {Title: "TOKENS"}, {Title: "RATE"}, {Title: "AGE"}, {Title: "REASON", Wide: true}, {Title: "TITLE", Wide: true},
	}
}

// RunCells are what a list shows of a run. live is its rate now, if somebody counts.
func RunCells(run *v1alpha1.ChatRun, now time.Time, live string) []string {
	s := &run.Status
	var attempt, tokens string
	if s.Attempt != nil && *s.Attempt > 0 {
		attempt = strconv.Itoa(int(*s.Attempt))
	}
	if s.Usage != nil && s.Usage.OutputTokens != nil {
		tokens = strconv.FormatInt(*s.Usage.OutputTokens, 10)
	}
	if live == "" {
		live = rate(run)
	}
	var reason string
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionSucceeded); c != nil {
		reason = c.Reason
	}
	return clean([]string{
		run.Name, run.Spec.ProviderRef.Name, s.Model, string(s.Phase), attempt, waiting(run, now), s.LastErrorReason, tokens, live,
		duration.HumanDuration(max(0, now.Sub(run.CreationTimestamp.Time))), reason, run.Annotations[v1alpha1.AnnotationTitle],
	})
}

// waiting is the time that is left of the wait before the next attempt.
func waiting(run *v1alpha1.ChatRun, now time.Time) string {
	if run.Status.Phase != v1alpha1.PhaseRetrying || run.Status.RetryingAt == nil {
		return ""
	}
	left := run.Status.RetryingAt.Sub(now)
	if left <= 0 {
		return "now"
	}
	return fmt.Sprintf("in %d s", seconds(left))
}

// seconds are whole ones, rounded up: no wait ends before 0.
func seconds(left time.Duration) int64 { return int64((left + time.Second - 1) / time.Second) }

// rate is that of a run that has ended. Usage sums over attempts, so that of more than
// one may hold tokens of those that failed.
func rate(run *v1alpha1.ChatRun) string {
	s := &run.Status
	if s.Usage == nil || s.Usage.OutputTokens == nil || s.FirstTokenTime == nil || s.CompletionTime == nil {
		return ""
	}
	took := s.CompletionTime.Sub(s.FirstTokenTime.Time)
	if took <= 0 {
		return ""
	}
	text := Rate(float64(*s.Usage.OutputTokens) / took.Seconds())
	if s.Attempt != nil && *s.Attempt > 1 {
		return "≈" + text
	}
	return text
}

// Rate is a number of tokens a second.
func Rate(each float64) string {
	if each < 10 {
		return fmt.Sprintf("%.1f/s", each)
	}
	return fmt.Sprintf("%.0f/s", each)
}

// ProviderColumns are those of ProviderCells.
func ProviderColumns() []Column {
	return []Column{{Title: "NAME"}, {Title: "TYPE"}, {Title: "DEFAULT-MODEL"}, {Title: "READY"}, {Title: "REASON"}, {Title: "AGE"}}
}

// ProviderCells are what a list shows of a provider.
func ProviderCells(provider *v1alpha1.ChatProvider, now time.Time) []string {
	ready, reason := "", ""
	if c := meta.FindStatusCondition(provider.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		ready, reason = string(c.Status), c.Reason
	}
	return clean([]string{
		provider.Name, string(provider.Spec.Type), provider.Spec.DefaultModel, ready, reason,
		duration.HumanDuration(max(0, now.Sub(provider.CreationTimestamp.Time))),
	})
}

// clean takes out of each cell what a terminal obeys, and new lines.
func clean(cells []string) []string {
	for i, cell := range cells {
		cells[i] = Line(cell)
	}
	return cells
}

// NewTable is an empty table in the form that kubectl prints.
func NewTable(columns []Column) *metav1.Table {
	table := &metav1.Table{}
	for _, c := range columns {
		definition := metav1.TableColumnDefinition{Name: c.Title, Type: "string"}
		if c.Wide {
			definition.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, definition)
	}
	return table
}

// AddRow adds an object to a table.
func AddRow(table *metav1.Table, object runtime.Object, cells []string) {
	row := metav1.TableRow{Object: runtime.RawExtension{Object: object}}
	for _, cell := range cells {
		row.Cells = append(row.Cells, cell)
	}
	table.Rows = append(table.Rows, row)
}
