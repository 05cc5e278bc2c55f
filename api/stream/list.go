// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import "time"

// RunList is a page of the runs of a namespace, the newest first.
type RunList struct {
	Namespace string    `json:"namespace"`
	Runs      []Summary `json:"runs"`
	// Continue asks for the next page; empty is the last one.
	Continue string `json:"continue,omitempty"`
	// Truncated says that the namespace holds more runs than the server looks at.
	Truncated bool `json:"truncated,omitempty"`
}

// Summary says of a run what a list shows. It holds nothing of what is asked and
// answered but the title.
type Summary struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
	// Provider is the name of the ChatProvider.
	Provider string `json:"provider"`
	// Model is the model that answers, once it is known.
	Model string `json:"model,omitempty"`
	// Phase is the run's status.phase, as in Status.
	Phase string `json:"phase"`
	// Reason is the reason of the run's Succeeded condition.
	Reason string `json:"reason,omitempty"`
	// Attempt is the number of the attempt under way or last made; 0 before the first.
	Attempt int32 `json:"attempt"`
	// LastErrorReason is the class of the last failure.
	LastErrorReason string `json:"lastErrorReason,omitempty"`
	// RetryingAt is when the wait before the next attempt ends, if one is waited for.
	RetryingAt time.Time `json:"retryingAt,omitzero"`
	// DelayMs is that wait in milliseconds.
	DelayMs int64 `json:"delayMs,omitempty"`
	// Title is the run's title, if one stands.
	Title     string    `json:"title,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}
