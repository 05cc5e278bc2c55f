// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// retryAfter is when to ask again after a review that could not be made.
const retryAfter = 5 * time.Second

func unauthorized(message string) *apierrors.StatusError { return apierrors.NewUnauthorized(message) }

func badRequest(message string) *apierrors.StatusError { return apierrors.NewBadRequest(message) }

func notFound(message string) *apierrors.StatusError {
	return statusError(http.StatusNotFound, metav1.StatusReasonNotFound, message)
}

func methodNotAllowed(message string) *apierrors.StatusError {
	return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, message)
}

func statusError(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

func tryAgain(message string) *apierrors.StatusError {
	err := apierrors.NewServiceUnavailable(message)
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(retryAfter / time.Second)}
	return err
}

// forbidden words a refusal as the API server does.
func forbidden(caller string, right authorizationv1.ResourceAttributes, reason string) *apierrors.StatusError {
	resource := right.Resource
	if right.Subresource != "" {
		resource += "/" + right.Subresource
	}
	message := fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q",
		caller, right.Verb, resource, right.Group, right.Namespace)
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: right.Group, Resource: right.Resource}, right.Name, errors.New(message))
}

// Refuse answers a request with an error, as the API server would.
func Refuse(w http.ResponseWriter, code int32, reason metav1.StatusReason, message string) {
	refuse(w, statusError(code, reason, message))
}

// refuse answers with the object that kubectl and client libraries understand.
func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.ErrStatus
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if status.Code == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	w.WriteHeader(int(status.Code))
	// A caller that is gone already needs no answer.
	_ = json.NewEncoder(w).Encode(status)
}
