// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Message is one turn of a conversation.
type Message struct {
	// role is who speaks: system, user or assistant.
	// +required
	Role MessageRole `json:"role,omitempty"`

	// content is what is said, at most 131072 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=131072
	Content string `json:"content,omitempty"`
}

// MessagesSource names where messages stand.
// +kubebuilder:validation:MinProperties=1
type MessagesSource struct {
	// configMapKeyRef names a key of a ConfigMap in the run's namespace that holds
	// a JSON list of messages, each with the members role and content, as in
	// messages: at most 921600 bytes and 1024 messages, the last one the user's.
	// A Secret cannot be named: a run could make the model repeat it to people
	// who may not read it.
	// +optional
	ConfigMapKeyRef *ConfigMapKeyReference `json:"configMapKeyRef,omitempty"`
}

// ConfigMapKeyReference names one key of a ConfigMap in the same namespace.
type ConfigMapKeyReference struct {
	// name is the ConfigMap's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of a ConfigMap: lower case letters, digits, '-' and '.'"
	Name string `json:"name,omitempty"`

	// key is the key within the ConfigMap's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$')",message="must be a key of a ConfigMap: letters, digits, '-', '_' and '.'"
	Key string `json:"key,omitempty"`
}

// RunReference names a ChatRun in the same namespace.
type RunReference struct {
	// name is the ChatRun's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of a ChatRun: lower case letters, digits, '-' and '.'"
	Name string `json:"name,omitempty"`
}
