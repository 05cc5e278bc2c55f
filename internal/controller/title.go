// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"

	"chatrun.dev/operator/api/v1alpha1"
)

// titlePrompt returns the question that a title is to be made of, and false if
// none is wanted: the policy says None, a title stands, or the conversation is
// more than one message of the user.
func titlePrompt(run *v1alpha1.ChatRun) (string, bool) {
	if t := run.Spec.Title; t != nil && t.Policy == v1alpha1.TitleNone {
		return "", false
	}
	if _, stands := run.Annotations[v1alpha1.AnnotationTitle]; stands {
		return "", false
	}
	prompt, users := "", 0
	for _, m := range messagesOf(run) {
		switch m.Role {
		case v1alpha1.RoleAssistant:
			return "", false
		case v1alpha1.RoleUser:
			prompt = m.Content
			users++
		case v1alpha1.RoleSystem:
		}
	}
	return prompt, users == 1
}

// writeTitle writes a generated title that lies in the pool, whatever the run's
// state. A title that stands on the object wins, also one that was set in the
// meantime: the write is refused then, and the next look finds it.
func (r *ChatRunReconciler) writeTitle(ctx context.Context, f facts) error {
	if f.run == nil || f.pool == nil || f.pool.Title == "" {
		return nil
	}
	uid := string(f.run.UID)
	if _, stands := f.run.Annotations[v1alpha1.AnnotationTitle]; stands {
		r.pool.SettleTitle(uid)
		return nil
	}
	base := f.run.DeepCopy()
	if f.run.Annotations == nil {
		f.run.Annotations = map[string]string{}
	}
	f.run.Annotations[v1alpha1.AnnotationTitle] = f.pool.Title
	if err := r.client.Patch(ctx, f.run, locked(base)); err != nil {
		return fmt.Errorf("writing the title: %w", err)
	}
	r.hub.Title(runOf(f.run), f.pool.Title)
	r.pool.SettleTitle(uid)
	return nil
}
